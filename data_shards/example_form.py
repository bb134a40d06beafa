"""How the records of a dataset become examples: all of what a worker must be told, and a unit's key depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_shards.batches import RecordBatch
from data_shards.chat_template import ChatTemplate, chat_template
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.settings import DataSettings
from data_shards.task_settings import TaskKind
from data_shards.units import Unit

_FEWEST_CLASSES = 2
_MOST_NAMED = 5


@dataclass(frozen=True)
class ExampleForm:
    """A task's kind, the tokens of a row, and what the kind needs."""

    task: TaskKind
    seq_len: int
    too_long: str  # cut, skip or fail
    classes: tuple[str, ...] = ()
    template: ChatTemplate | None = None

    @property
    def key(self) -> str:
        """Names all of it; SHA-256 in hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def example_form(
    settings: DataSettings, seq_len: int, units: Sequence[Unit], known_classes: tuple[str, ...] = ()
) -> ExampleForm | None:
    """The form that the settings ask for; None where they ask for text.

    Classes that are neither given nor known are looked for in all units. Raises: DataError where there are fewer than
    two, or the chat template is unusable.
    """
    if settings.task is None:
        return None
    kind = settings.task.kind
    classes = (settings.classes or known_classes or found_classes(units)) if kind == "class" else ()
    template = chat_template(settings.tokenizer) if kind == "chat" else None
    return ExampleForm(kind, seq_len, settings.too_long, classes, template)


def check_classes(form: ExampleForm, vocab_size: int) -> None:
    """Refuse more classes than there are ids, by which a class is stored. Raises: DataError."""
    if len(form.classes) > vocab_size:
        raise DataError(
            f"data.classes: must be at most as many as the tokenizer has tokens, {vocab_size}, since a class is stored "
            f"as one of their ids; found {len(form.classes)}: merge classes, or take a tokenizer with more tokens"
        )


def class_name(label: Any) -> str | None:
    """The name of the class that a record's label means: a string as it is, true, false or a whole number in words."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(label) if isinstance(label, str | int) else None


def found_classes(units: Iterable[Unit]) -> tuple[str, ...]:
    """The classes of all records, sorted: by value, if all are whole numbers. Raises: DataError for fewer than two."""
    found: set[str] = set()
    for unit in units:
        for batch in unit.documents(Rejects("skip", logged_per_reason=0)):
            if isinstance(batch, RecordBatch):
                found.update(name for row in batch.rows if (name := class_name(row[0])) is not None)
    if len(found) < _FEWEST_CLASSES:
        raise DataError(
            f"data.sources: have {len(found)} classes ({', '.join(sorted(found)[:_MOST_NAMED])}), and there must be "
            "two or more: set the label of the source's task to the field that has them"
        )
    are_numbers = all(name.removeprefix("-").isdecimal() for name in found)
    return tuple(sorted(found, key=lambda name: (int(name) if are_numbers else 0, name)))
