"""One unit's records on their way to the shards of their splits: as examples, packed into rows when all are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from data_shards.batches import Batch, RecordBatch
from data_shards.best_fit import best_fit_rows, mixed_rows
from data_shards.encoder import Encoder
from data_shards.example_encoder import ExampleEncoder, MadeExample
from data_shards.example_form import ExampleForm
from data_shards.examples import row_tokens
from data_shards.records import record_texts
from data_shards.rejects import Rejects, shown
from data_shards.tokenizer import TextTokenizer
from data_shards.unit_output import SplitOutput
from data_shards.units import SplitRule

TryTexts = Callable[[Sequence[str]], Mapping[int, str]]
"""Of texts those that end the process which encodes them, and how."""


class ExampleRun:
    """Encodes and splits records, and writes them by `finish`. Holds the examples of a whole unit."""

    def __init__(
        self,
        form: ExampleForm,
        tokenizer: TextTokenizer,
        encoder: Encoder,
        rule: SplitRule,
        outputs: Mapping[str, SplitOutput],
        rejects: Rejects,
        *,
        try_texts: TryTexts | None = None,
    ) -> None:
        self._form, self._rule, self._outputs, self._rejects = form, rule, outputs, rejects
        self._eot_id = tokenizer.eot_id
        self._examples = ExampleEncoder(form, tokenizer, encoder, rejects)
        self._try_texts = try_texts
        self._made: dict[str, list[MadeExample]] = {split: [] for split in outputs}

    def add(self, batch: Batch) -> None:
        """Take a batch of records. Raises DataError under `fail` for a bad one."""
        assert isinstance(batch, RecordBatch)
        for made in self._examples.examples(self._without_killers(batch)):
            self._made["val" if self._rule.is_held_out(made.split_hash) else "train"].append(made)

    def finish(self) -> None:
        """Write all examples to the shards of their splits."""
        seq_len = self._form.seq_len
        for split, made in self._made.items():
            if made:
                examples = [one.stored for one in made]
                rows = mixed_rows(best_fit_rows([*map(len, examples)], seq_len))
                stored, starts = row_tokens(examples, rows, seq_len, self._eot_id)
                self._outputs[split].add_rows(stored, starts, sum(one.text_bytes for one in made))

    def _without_killers(self, batch: RecordBatch) -> RecordBatch:
        """Rejects the records whose texts end the process which encodes them, if that is to be tried."""
        if self._try_texts is None:
            return batch
        texts = [record_texts(self._form.task, row) for row in batch.rows]
        owners = [place for place, own in enumerate(texts) for _ in own]
        deaths: dict[int, str] = {}
        for number, death in self._try_texts([text for own in texts for text in own]).items():
            deaths.setdefault(owners[number], death)
        for place, death in deaths.items():
            found = f"{death}; it begins with {shown(texts[place][0])!r}"
            self._rejects.reject("killed its worker", batch.place(place), found)
        kept = [place for place in range(len(batch.rows)) if place not in deaths]
        return RecordBatch([batch.rows[place] for place in kept], lambda i: batch.place(kept[i]))
