"""What one worker does with one unit: read, tokenise, write its shards, leave a record."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from data_shards.batches import joined
from data_shards.dataset import TOKENIZER_FILE, UnitNote
from data_shards.encoder import SPOT_CHECK_BYTES, Encoder
from data_shards.errors import DataError
from data_shards.example_form import ExampleForm
from data_shards.example_run import ExampleRun
from data_shards.manifest import SPLITS, Shard
from data_shards.rejects import Reject, Rejects
from data_shards.storage import Folder, open_folder
from data_shards.tokenizer import TextTokenizer, parse_tokenizer
from data_shards.unit_output import ShardForm, SplitOutput, token_dtype
from data_shards.unit_run import UnitRun
from data_shards.units import Unit

logger = logging.getLogger(__name__)

RECORDS_FOLDER = ".units"


@dataclass(frozen=True)
class UnitResult:
    """The shards of a finished unit, all in place, and what was left out of them."""

    key: str
    shards: tuple[Shard, ...]
    note: UnitNote

    def to_dict(self) -> dict[str, Any]:
        """Plain values whose types are the same for all results, as the rows of a table must be."""
        return {
            "key": self.key,
            "shards": [shard.to_dict() for shard in self.shards],
            "empty": self.note.empty,
            "skipped": [{"reason": reason, "records": number} for reason, number in self.note.skipped.items()],
            "places": [[place.where, place.reason, place.found] for place in self.note.places],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        skipped = {item["reason"]: item["records"] for item in row["skipped"]}
        places = tuple(Reject(*place) for place in row["places"])
        shards = tuple(Shard.from_dict(shard) for shard in row["shards"])
        return cls(key=row["key"], shards=shards, note=UnitNote(row["empty"], skipped, places))


@dataclass(frozen=True)
class UnitWorker:
    """Turns units into shards in `dir`. Picklable; each process loads the tokenizer once, when it first needs it."""

    dir: str  # a folder or an address
    tokenizer_fingerprint: str
    block_tokens: int
    on_bad_record: str
    packing: str = "stream"
    fast_encoder: bool = True  # as `dataset_tokenizer.fast_encoder_agrees` found; the tokens are the same either way
    form: ExampleForm | None = None  # how records become examples; None where text becomes documents
    careful: bool = False  # each batch is encoded by another process first, and texts that end it are rejected

    def __call__(self, unit: Unit) -> UnitResult:
        """Write the unit's shards and its record.

        Raises DataError for what is wrong with its files, RuntimeError if the fast encoder gives wrong tokens.
        """
        folder = open_folder(self.dir)
        tokenizer, encoder = _cached_encoder(self.dir, self.tokenizer_fingerprint, self.fast_encoder)
        rejects = Rejects(self.on_bad_record)
        with ExitStack() as stack:
            form = ShardForm(
                unit=unit.key,
                source=unit.source,
                number=unit.shard,
                dtype="uint32" if self.form else token_dtype(tokenizer.vocab_size),
                eot_id=tokenizer.eot_id,
                block_tokens=self.block_tokens,
            )
            outputs = {split: SplitOutput(folder, form, split, stack) for split in SPLITS}
            try_texts = self._try_texts if self.careful else None
            batches = unit.documents(rejects)
            if self.form is not None:
                run = ExampleRun(self.form, tokenizer, encoder, unit.rule, outputs, rejects, try_texts=try_texts)
                for batch in batches:
                    run.add(batch)
                run.finish()
            else:
                in_pairs = self.packing == "sentence_pairs"
                texts = UnitRun(tokenizer, encoder, unit.rule, outputs, rejects, in_pairs=in_pairs, try_texts=try_texts)
                for batch in batches if self.careful else joined(batches):
                    texts.add(batch)
            shards = [output.close() for output in outputs.values()]
        note = UnitNote(rejects.empty, dict(sorted(rejects.skipped.items())), tuple(rejects.places))
        result = UnitResult(unit.key, tuple(shard for shard in shards if shard is not None), note)
        write_record(folder, result)
        return result

    def _try_texts(self, texts: Sequence[str]) -> Mapping[int, str]:
        from data_shards.isolation import try_texts  # needed where a worker died, which is rare

        return try_texts(f"{self.dir}/{TOKENIZER_FILE}", texts, fast=self.fast_encoder)


def record_name(key: str) -> str:
    """The name of a unit's record in the dataset's folder."""
    return f"{RECORDS_FOLDER}/{key}.json"


def write_record(folder: Folder, result: UnitResult) -> None:
    """Note that a unit is done, so that a prepare which is killed need not do it again."""
    folder.write(record_name(result.key), json.dumps(result.to_dict(), sort_keys=True).encode())


def read_record(folder: Folder, key: str) -> UnitResult | None:
    """The record of a finished unit, if there is a whole one."""
    data = folder.read(record_name(key))
    if data is None:
        return None
    try:
        return UnitResult.from_dict(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        name = f"{folder.address}/{record_name(key)}"
        logger.warning("%s: not a record of a unit (%s: %s); the unit is made anew", name, type(error).__name__, error)
        return None


@lru_cache(maxsize=1)
def _cached_encoder(dir: str, fingerprint: str, fast: bool) -> tuple[TextTokenizer, Encoder]:
    data = open_folder(dir).read(TOKENIZER_FILE)
    tokenizer = None if data is None else parse_tokenizer(data, Path(dir, TOKENIZER_FILE))
    if tokenizer is None or tokenizer.fingerprint != fingerprint:
        raise DataError(f"{dir}/{TOKENIZER_FILE}: changed since prepare began: run prepare again, one at a time")
    return tokenizer, Encoder(tokenizer.backend, fast=fast, spot_check_bytes=SPOT_CHECK_BYTES)
