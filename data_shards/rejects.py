"""Bad records: counted by reason, placed, and refused or left out."""

import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from data_shards.errors import DataError

logger = logging.getLogger(__name__)

PLACES_PER_UNIT = 100
LOGGED_PER_REASON = 5
_SHOWN_CHARACTERS = 60
_TOO_LONG = "longer than a sequence"
LEFT_OUT_AS_ASKED = f"{_TOO_LONG}, and left out as data.too_long asks"
_SCHEMA = pa.schema([(name, pa.string()) for name in ("unit", "source", "where", "reason", "found")])


@dataclass(frozen=True, slots=True)
class Reject:
    """A bad record that was left out: `where` is file and line, `found` the value."""

    where: str
    reason: str
    found: str


@dataclass
class Rejects:
    """Counts what is left out. Under `fail` the first bad record raises DataError; under `skip` it is logged."""

    on_bad_record: str
    empty: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    places: list[Reject] = field(default_factory=list)  # the first ones, in the order of the corpus
    cuts: int = 0  # within a run of text that has no border of words
    logged_per_reason: int = LOGGED_PER_REASON

    def reject(self, reason: str, where: str, found: str) -> None:
        """One bad record: `reason` is counted, `where` is file and line, `found` the value."""
        message = f"{where}: {reason}: {found}"
        if self.on_bad_record == "fail":
            raise DataError(f"{message}: correct the file, or set data.on_bad_record: skip")
        self._skip(reason, where, found)

    def _skip(self, reason: str, where: str, found: str) -> None:
        self.skipped[reason] += 1
        if len(self.places) < PLACES_PER_UNIT:
            self.places.append(Reject(where, reason, found))
        if self.skipped[reason] <= self.logged_per_reason:
            logger.warning("skipped %s: %s: %s", where, reason, found)

    def reject_too_long(self, where: str, found: str, too_long: str) -> None:
        """An example that is longer than a row: by `data.too_long` it is left out, or refused, or else is bad."""
        if too_long == "skip":
            self._skip(LEFT_OUT_AS_ASKED, where, found)
        elif too_long == "fail":
            raise DataError(f"{where}: {_TOO_LONG}: {found}: raise model.max_seq_len, or set data.too_long: cut")
        else:
            self.reject(f"what is learned is {_TOO_LONG}", where, found)

    def cut_within_a_word(self, where: str, part_bytes: int) -> None:
        """A document was cut where its tokens may be others than those of the whole. No text is lost."""
        self.cuts += 1
        if self.cuts <= self.logged_per_reason:
            logger.warning(
                "%s: %d bytes without a border of words are cut after that size; tokens there may be others than those "
                "of the uncut text",
                where,
                part_bytes,
            )


def shown(text: str) -> str:
    """The beginning of a value, for a message."""
    text = text.strip()
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def rejects_table(units: Iterable[tuple[str, str, Sequence[Reject]]]) -> bytes:
    """Parquet bytes of (unit's key, source, its rejects), a row each; the same rejects always give the same bytes."""
    rows = [
        {"unit": unit, "source": source, "where": reject.where, "reason": reject.reason, "found": reject.found}
        for unit, source, places in units
        for reject in places
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def parse_rejects(data: bytes) -> dict[str, tuple[Reject, ...]]:
    """The rejects of each unit, by its key: the inverse of `rejects_table` but for the sources."""
    places: dict[str, list[Reject]] = {}
    for row in pq.read_table(pa.BufferReader(data), schema=_SCHEMA, use_threads=False).to_pylist():
        places.setdefault(row["unit"], []).append(Reject(row["where"], row["reason"], row["found"]))
    return {unit: tuple(own) for unit, own in places.items()}
