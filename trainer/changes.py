"""What may change between a run's first start and its resume. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import RunConfig
from trainer.errors import TrainError

FREE = (
    "name",
    "out_dir",
    "cluster",
    "checkpoint",
    "monitoring",
    "eval",
    "callbacks",
    "data.on_bad_shard",
    "data.cache_dir",
    "data.cache_bytes",
    "train.zero",
    "train.micro_batch_size",
    "train.deepspeed",
    "train.activation_checkpointing",
    "train.compile",
    "train.on_bad_numbers",
    "train.spike_deviations",
)
WITH_CONSENT = (
    "train.lr",
    "train.schedule",
    "train.global_batch_size",
    "train.max_tokens",
    "train.max_steps",
    "train.epochs",
)


@dataclass(frozen=True)
class Change:
    """A field that differs from the run's first start."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.before!r} -> {self.after!r}"


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values; lists count as values."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _under(field: str, names: tuple[str, ...]) -> bool:
    return any(field == name or field.startswith(f"{name}.") for name in names)


def _flat(config: RunConfig) -> dict[str, Any]:
    # The sources are one value, of which the cap on their passes may change: it says what a run may not do.
    return flatten(config.model_dump(mode="json", exclude={"data": {"sources": {"__all__": {"max_passes"}}}}))


def changes_between(before: RunConfig, after: RunConfig) -> list[Change]:
    """The fields that differ and do more than say where or on what machines the run happens."""
    old, new = _flat(before), _flat(after)
    names = sorted(name for name in old.keys() | new.keys() if not _under(name, FREE))
    return [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def check_changes(before: RunConfig, after: RunConfig, accepted: bool) -> list[Change]:
    """The changes that a resume takes over and records.

    Raises:
        TrainError: a change that would break the run's order or weights, or one that was not accepted.
    """
    changes = changes_between(before, after)
    refused = [change for change in changes if not _under(change.field, WITH_CONSENT)]
    if refused:
        listed = "; ".join(map(str, refused))
        raise TrainError(
            f"{after.out_dir}: a run keeps its model, data, seed and precision from its first start, since a resume "
            f"would not be the same run otherwise. Changed: {listed}. Set them back, or start a new run with another "
            f"out_dir."
        )
    if changes and not accepted:
        listed = "; ".join(map(str, changes))
        raise TrainError(
            f"{after.out_dir}: the run file differs from the run's first start: {listed}. Set the fields back, or "
            f"give --accept-changes to go on with the new values, which is recorded."
        )
    return changes
