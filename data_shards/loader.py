"""Training batches: the state that a resume needs, the split over ranks, and the read."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_shards.cuts import decoder_starts
from data_shards.dataset import Dataset
from data_shards.errors import DataError, StoreError
from data_shards.manifest import SPLITS, Shard
from data_shards.order import Order, sequence_hash
from data_shards.permutation import Int64Array
from data_shards.positions import Located, Spans, Stretches, next_free
from data_shards.shard_reader import ShardReader, check_sizes, wrong_sizes

logger = logging.getLogger(__name__)

STATE_VERSION = 1
# So far ahead a rank looks for shards that it will need; told anew when half of it is behind.
_AHEAD_POSITIONS = 65_536
_WARNINGS = 5


@dataclass(frozen=True)
class LoaderState:
    """How far a run has come in its order; says nothing of ranks, so it holds on any number of them.

    consumed: the next position to be taken. excluded: half-open (start, end) ranges of positions never to be taken,
    sorted and disjoint. batches: (first position, global batch size) of each step whose size differs from the last.
    """

    version: int = STATE_VERSION
    consumed: int = 0
    excluded: Spans = ()
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

    def after(self, positions: Int64Array) -> "LoaderState":
        """The state after a step that took these positions (int64 [global batch size])."""
        batches = self.batches
        if not batches or batches[-1][1] != len(positions):
            batches = (*batches, (int(positions[0]), len(positions)))
        return LoaderState(self.version, int(positions[-1]) + 1, self.excluded, batches)


def next_positions(state: LoaderState, global_batch_size: int) -> tuple[Int64Array, LoaderState]:
    """The positions of the next step, int64 [global_batch_size], rising, and the state after it."""
    positions = next_free(state.consumed, global_batch_size, state.excluded)
    return positions, state.after(positions)


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
    # For each of the R rows the places in it, above 0 and rising, where a document begins; None if not asked for.
    document_starts: tuple[Int64Array, ...] | None = None
    loss_mask: NDArray[np.bool_] | None = None  # [R, T+1]; whether the loss counts a token as a label; None: all
    decoder_starts: Int64Array | None = None  # [R, T], as `cuts.decoder_starts`; None if not asked for


def train_order(
    dataset: Dataset, *, seq_len: int, seed: int, streams: int, window: int, weights: Mapping[str, float] | None
) -> Order:
    """The Order of a dataset's training shards; shard numbers count in `dataset.split("train")`.

    Raises: DataError as `Order` does, and for another seq_len than that of a dataset of examples.
    """
    dataset.check_seq_len(seq_len)
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


@dataclass(frozen=True)
class Unreadable:
    """A position whose sequence cannot be read."""

    position: int
    shard: str  # its path in the dataset
    reason: str


class TrainLoader:
    """Reads one rank's rows of any step; keeps mapped files and proved blocks, but no position."""

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        *,
        seq_len: int,
        rank: int,
        world: int,
        micro_batch: int,
        with_documents: bool = False,
        cut_seed: int | None = None,
        on_bad_shard: Literal["fail", "skip"] = "fail",
        ahead: Callable[[Sequence[Shard]], None] | None = None,
    ) -> None:
        """Check the sizes of all files, held-out ones too.

        Args: with_documents: batches tell where documents begin. cut_seed: they tell where texts are cut, drawn by
        it. on_bad_shard: with skip, training shards of a wrong size are warned of, and `try_read` is to be used. ahead:
        is told from time to time which shards this rank needs next, the first first.
        Raises: DataError naming a shard that is missing or of another size, unless such are skipped.
        """
        if seq_len != order.seq_len:
            raise ValueError(f"seq_len is {seq_len}, but the order was made for {order.seq_len}")
        check_sizes(dataset, ("val",) if on_bad_shard == "skip" else SPLITS)
        if on_bad_shard == "skip" and rank == 0:
            _warn_of_wrong_sizes(dataset)
        self._shards = dataset.split("train")
        keys = np.array([int(shard.sha256[:16], 16) for shard in self._shards], dtype=np.uint64)
        self._order, self._stretches = order, Stretches(order, keys)
        self._reader = ShardReader(dataset, self._shards)
        self._seq_len, self._rank, self._world, self._micro_batch = seq_len, rank, world, micro_batch
        self._with_documents, self._cut_seed = with_documents, cut_seed
        self._ahead, self._told = ahead, range(0)

    def read(self, state: LoaderState, global_batch_size: int) -> StepBatch:
        """The step that follows `state`. Raises: DataError naming shard and block if the bytes are damaged."""
        step, shards, firsts = self._own_part(state, global_batch_size)
        shape = rows_per_rank(global_batch_size, self._world, self._micro_batch), self._seq_len + 1
        real = np.zeros(shape[0], dtype=np.bool_)
        real[: len(shards)] = True
        tokens, loss_mask = self._reader.read_counted_rows(shards, firsts, shape)
        batch = StepBatch(
            state_after=state.after(step.positions),
            sequence_hash=sequence_hash(step.ids),
            tokens=tokens,
            real=real,
            tokens_real=global_batch_size * self._seq_len,
            document_starts=self._reader.starts_of_rows(shards, firsts, shape) if self._with_documents else None,
            loss_mask=loss_mask,
        )
        if self._cut_seed is None:
            return batch
        mine = step.positions[rank_slice(int(step.positions[0]), self._rank, self._world)]
        shape = len(real), self._seq_len
        starts = decoder_starts(mine, self._cut_seed, shape, batch.document_starts, batch.loss_mask)
        return replace(batch, decoder_starts=starts)

    def try_read(self, state: LoaderState, global_batch_size: int) -> tuple[StepBatch | None, tuple[Unreadable, ...]]:
        """The step that follows `state`, or else the positions of this rank that cannot be read.

        Raises StoreError where an object store does not answer.
        """
        step, shards, firsts = self._own_part(state, global_batch_size)
        mine = step.positions[rank_slice(int(step.positions[0]), self._rank, self._world)]
        failed = []
        for position, shard, first in zip(mine.tolist(), shards.tolist(), firsts.tolist(), strict=True):
            try:
                self._reader.prove(shard, first, self._seq_len + 1, with_documents=self._with_documents)
            except StoreError:
                raise  # an outage says nothing of the shard, which is not to be left out for ever
            except DataError as error:
                failed.append(Unreadable(position, self._shards[shard].path, str(error)))
        return (None if failed else self.read(state, global_batch_size)), tuple(failed)

    def sequences(self, start: int, end: int, excluded: Spans) -> list[tuple[int, str, int]]:
        """(position, shard's path, first token) of the positions [start, end) that `excluded` does not have."""
        free = next_free(start, end - start, excluded)
        free = free[free < end]
        shards, firsts = self._order.locate(free)
        rows = zip(free.tolist(), shards.tolist(), firsts.tolist(), strict=True)
        return [(position, self._shards[shard].path, first) for position, shard, first in rows]

    def upcoming(self, state: LoaderState, global_batch_size: int, steps: int) -> list[int]:
        """Numbers of the shards that this rank reads in the next so many steps, in the order of their first need."""
        positions = next_free(state.consumed, global_batch_size * steps, state.excluded)
        by_step = positions.reshape(steps, global_batch_size)
        mine = [rank_rows(of_step, self._rank, self._world) for of_step in by_step]
        shards, _ = self._order.locate(np.concatenate(mine))
        numbers, first_need = np.unique(shards, return_index=True)
        ordered: list[int] = numbers[np.argsort(first_need)].tolist()
        return ordered

    def _own_part(self, state: LoaderState, global_batch_size: int) -> tuple[Located, Int64Array, Int64Array]:
        """The step's positions, and shard and first token of this rank's rows of it."""
        if self._ahead is not None and state.consumed not in self._told:
            self._tell_ahead(self._ahead, state, global_batch_size)
        step = self._stretches.next(state.consumed, global_batch_size, state.excluded)
        mine = rank_slice(int(step.positions[0]), self._rank, self._world)
        return step, step.shards[mine], step.firsts[mine]

    def _tell_ahead(self, ahead: Callable[[Sequence[Shard]], None], state: LoaderState, global_batch_size: int) -> None:
        # An epoch has all shards, so there is no need to look further.
        steps = max(2, min(_AHEAD_POSITIONS, self._order.sequences_per_epoch) // global_batch_size)
        self._told = range(state.consumed, state.consumed + steps // 2 * global_batch_size)
        numbers = self.upcoming(state, global_batch_size, steps)
        ahead([self._shards[number] for number in numbers if not self._reader.is_open(number)])


def _warn_of_wrong_sizes(dataset: Dataset) -> None:
    for number, message in enumerate(wrong_sizes(dataset, ("train",))):
        if number == _WARNINGS:
            logger.warning("more shards are missing or of another size; `headrace data verify` names all")
            return
        logger.warning("%s Its sequences are left out (data.on_bad_shard: skip).", message)
