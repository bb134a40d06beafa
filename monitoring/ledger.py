"""Which data a run was trained on, step by step, from its journal; and whether two runs saw the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from monitoring.history import Fence, believed
from monitoring.journal import Record, last_values

_MOST_TOLD = 5


@dataclass(frozen=True)
class Entry:
    """One step that counts."""

    step: int
    attempt: int
    sequence_hash: str  # of the ids of the step's sequences over all ranks
    loss_hex: str  # `float.hex` of the loss
    tokens: int  # trained up to and with this step
    tokens_per_step: int | None  # of the global batch in that attempt; None: its start is not in the journal


@dataclass(frozen=True)
class Ledger:
    """The steps of a run that count, by step, and the ranges of positions that were left out for ever."""

    entries: Mapping[int, Entry]
    excluded: tuple[tuple[int, int], ...]  # half-open, sorted


@dataclass(frozen=True)
class LedgerDifference:
    """Two ledgers side by side, over the steps that both have."""

    common_steps: int
    first_step_of_other_data: int | None  # None: the same sequences at each common step
    first_step_of_other_loss: int | None  # None: losses equal to the last bit
    only_in_first: tuple[int, ...]
    only_in_second: tuple[int, ...]
    excluded_alike: bool

    @property
    def is_empty(self) -> bool:
        """Whether the two runs are the same, step for step and bit for bit."""
        same_values = self.first_step_of_other_data is None and self.first_step_of_other_loss is None
        return same_values and self.excluded_alike and not self.only_in_first and not self.only_in_second


def ledger(records: Iterable[Record], fence: Fence | None = None) -> Ledger:
    """The ledger of a run from its journal; what an attempt wrote after it was outrun is not in it."""
    kept = believed(records, fence or Fence())
    batch = {r["attempt"]: r.get("tokens_per_step") for r in kept if r.get("event") == "start"}
    entries = {
        step: Entry(
            step,
            record["attempt"],
            record["sequence_hash"],
            record["loss_hex"],
            record["tokens"],
            batch.get(record["attempt"]),
        )
        for step, record in last_values(kept).items()
    }
    ranges = {span for record in kept for span in _excluded(record)}
    return Ledger(entries, tuple(sorted(ranges)))


def _excluded(record: Record) -> Sequence[tuple[int, int]]:
    """The ranges that a record leaves out: of an unreadable shard, or of a step with bad numbers."""
    match record.get("event"):
        case "excluded":
            return [(record["start"], record["end"])]
        case "bad_numbers":
            return [(start, end) for start, end in record.get("excluded") or ()]
    return []


def problems(book: Ledger) -> list[str]:
    """What is wrong with a ledger by itself: steps lost, sequences doubled, tokens that do not rise by a global batch.

    An empty list: no step is missing from 1 to the last, no two have the same sequences, and each rises by its batch.
    """
    entries = book.entries
    missing = sorted(set(range(1, max(entries, default=0) + 1)) - entries.keys())
    return [
        *([f"steps without a record: {_told(missing)}"] if missing else []),
        *_doubled(entries),
        *_uneven(entries),
    ]


def _doubled(entries: Mapping[int, Entry]) -> list[str]:
    first: dict[str, int] = {}
    return [
        f"step {step} has the sequences of step {first[entry.sequence_hash]}"
        for step, entry in entries.items()
        if first.setdefault(entry.sequence_hash, step) != step
    ]


def _uneven(entries: Mapping[int, Entry]) -> list[str]:
    wrong = []
    for step, entry in entries.items():
        before = 0 if step == 1 else entries[step - 1].tokens if step - 1 in entries else None
        if before is not None and entry.tokens_per_step is not None and entry.tokens - before != entry.tokens_per_step:
            rise = entry.tokens - before
            wrong.append(f"step {step} adds {rise:,} tokens, its global batch has {entry.tokens_per_step:,}")
    return wrong


def compare_ledgers(first: Ledger, second: Ledger) -> LedgerDifference:
    """Where two runs part; each may be longer than the other."""
    a, b = first.entries, second.entries
    common = sorted(a.keys() & b.keys())
    return LedgerDifference(
        common_steps=len(common),
        first_step_of_other_data=next((n for n in common if a[n].sequence_hash != b[n].sequence_hash), None),
        first_step_of_other_loss=next((n for n in common if a[n].loss_hex != b[n].loss_hex), None),
        only_in_first=tuple(sorted(a.keys() - b.keys())),
        only_in_second=tuple(sorted(b.keys() - a.keys())),
        excluded_alike=_merged(first.excluded) == _merged(second.excluded),
    )


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _told(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:_MOST_TOLD]))
    return shown if len(steps) <= _MOST_TOLD else f"{shown} and {len(steps) - _MOST_TOLD} more"
