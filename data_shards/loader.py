"""Training batches: the state that a resume needs, the split over ranks, and the read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.order import Order, sequence_hash
from data_shards.permutation import Int64Array
from data_shards.shard_reader import ShardReader, check_sizes

STATE_VERSION = 1


@dataclass(frozen=True)
class LoaderState:
    """How far a run has come in its order; says nothing of ranks, so it holds on any number of them.

    consumed: the next position to be taken. excluded: half-open (start, end) ranges of positions never to be taken,
    sorted and disjoint. batches: (first position, global batch size) of each step whose size differs from the last.
    """

    version: int = STATE_VERSION
    consumed: int = 0
    excluded: tuple[tuple[int, int], ...] = ()
    batches: tuple[tuple[int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain integers and lists, fit for JSON."""
        return {
            "version": self.version,
            "consumed": self.consumed,
            "excluded": [list(span) for span in self.excluded],
            "batches": [list(entry) for entry in self.batches],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "LoaderState":
        """The inverse of `to_dict`; DataError if another version wrote it."""
        if state.get("version") != STATE_VERSION:
            raise DataError(
                f"The loader state has version {state.get('version')} and this program reads version {STATE_VERSION}: "
                "resume with the version that wrote it."
            )
        return cls(
            consumed=int(state["consumed"]),
            excluded=tuple((int(start), int(end)) for start, end in state["excluded"]),
            batches=tuple((int(first), int(size)) for first, size in state["batches"]),
        )

    def excluding(self, start: int, end: int) -> "LoaderState":
        """The same state, but positions [start, end) are never to be taken."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted((*self.excluded, (start, end))):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return replace(self, excluded=tuple(merged))


def next_positions(state: LoaderState, global_batch_size: int) -> tuple[Int64Array, LoaderState]:
    """The positions of the next step, int64 [global_batch_size], rising, and the state after it."""
    positions = _next_free(state.consumed, global_batch_size, state.excluded)
    batches = state.batches
    if not batches or batches[-1][1] != global_batch_size:
        batches = (*batches, (int(positions[0]), global_batch_size))
    return positions, replace(state, consumed=int(positions[-1]) + 1, batches=batches)


def _next_free(start: int, count: int, excluded: tuple[tuple[int, int], ...]) -> Int64Array:
    runs = []
    for low, high in excluded:
        if high <= start:
            continue
        length = min(count, max(0, low - start))
        runs.append(np.arange(start, start + length))
        count -= length
        if count == 0:
            break
        start = high
    runs.append(np.arange(start, start + count))
    return np.concatenate(runs)


def rank_slice(first_position: int, rank: int, world: int) -> slice:
    """The rows of a step that a rank takes: position p goes to rank p mod world.

    After an excluded range inside the step the rows are dealt on in turn, so that ranks stay level to one row.
    """
    return slice((rank - first_position) % world, None, world)


def rank_rows(positions: Int64Array, rank: int, world: int) -> Int64Array:
    """The positions of a step (int64 [n]) that fall to a rank, in their order."""
    return positions[rank_slice(int(positions[0]), rank, world)]


def rows_per_rank(rows: int, world: int, micro_batch: int) -> int:
    """Rows that every rank holds for `rows` real ones, padding included: a multiple of micro_batch."""
    most = -(-rows // world)
    return -(-most // micro_batch) * micro_batch


@dataclass(frozen=True)
class StepBatch:
    """One rank's part of a step; R is the same on all ranks."""

    state_after: LoaderState
    sequence_hash: str  # of the step's sequences over all ranks
    tokens: Int64Array  # [R, T+1]; zeros in a pad row
    real: NDArray[np.bool_]  # [R]; False marks a pad row
    tokens_real: int  # label tokens of the step over all ranks: global batch size * T


def train_order(
    dataset: Dataset, *, seq_len: int, seed: int, streams: int, window: int, weights: Mapping[str, float] | None
) -> Order:
    """The Order of a dataset's training shards; shard numbers count in `dataset.split("train")`."""
    shards = dataset.split("train")
    return Order(
        [shard.tokens for shard in shards],
        [shard.source for shard in shards],
        seq_len=seq_len,
        seed=seed,
        streams=streams,
        window=window,
        weights=weights,
        fingerprint=dataset.fingerprint,
    )


class TrainLoader:
    """Reads one rank's rows of any step; keeps mapped files and proved blocks, but no position."""

    def __init__(
        self, dataset: Dataset, order: Order, *, seq_len: int, rank: int, world: int, micro_batch: int
    ) -> None:
        """Check the sizes of all files. Raises: DataError naming a shard that is missing or of another size."""
        if seq_len != order.seq_len:
            raise ValueError(f"seq_len is {seq_len}, but the order was made for {order.seq_len}")
        check_sizes(dataset)
        shards = dataset.split("train")
        self._order, self._reader = order, ShardReader(dataset, shards)
        self._keys = np.array([int(shard.sha256[:16], 16) for shard in shards], dtype=np.uint64)
        self._seq_len, self._rank, self._world, self._micro_batch = seq_len, rank, world, micro_batch

    def read(self, state: LoaderState, global_batch_size: int) -> StepBatch:
        """The step that follows `state`. Raises: DataError naming shard and block if the bytes are damaged."""
        positions, state_after = next_positions(state, global_batch_size)
        shards, firsts = self._order.locate(positions)
        mine = rank_slice(int(positions[0]), self._rank, self._world)
        rows = rows_per_rank(global_batch_size, self._world, self._micro_batch)
        tokens = np.zeros((rows, self._seq_len + 1), dtype=np.int64)
        places = list(zip(shards[mine].tolist(), firsts[mine].tolist(), strict=True))
        for row, (shard, first) in zip(tokens, places, strict=False):
            self._reader.read(shard, first, row)
        return StepBatch(
            state_after=state_after,
            sequence_hash=sequence_hash(shards, firsts, self._keys),
            tokens=tokens,
            real=np.arange(rows) < len(places),
            tokens_real=global_batch_size * self._seq_len,
        )
