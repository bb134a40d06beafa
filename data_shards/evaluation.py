"""The held-out sequences, in one fixed order, split over ranks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loader import rows_per_rank
from data_shards.permutation import Int64Array
from data_shards.pool import sequence_counts
from data_shards.shard_reader import ShardReader


def evaluation_batches(
    dataset: Dataset, *, seq_len: int, rank: int, world: int, micro_batch: int, max_tokens: int
) -> Iterator[tuple[Int64Array, NDArray[np.bool_]]]:
    """Batches of tokens int64 [micro_batch, seq_len + 1] and real bool [micro_batch]; pad rows are zeros and False.

    They hold the first max_tokens // seq_len held-out sequences (at least one; all, if there are fewer) in manifest
    order. Sequence p goes to rank p mod world; every rank gets the same number of batches.
    Raises: DataError if the validation split has no whole sequence, or a file is damaged.
    """
    shards, firsts = _sequences(dataset, seq_len, max_tokens)
    rows = rows_per_rank(len(shards), world, micro_batch)
    reader = ShardReader(dataset, dataset.split("val"))
    return _batches(reader, shards[rank::world], firsts[rank::world], seq_len, rows, micro_batch)


def _batches(
    reader: ShardReader, shards: Int64Array, firsts: Int64Array, seq_len: int, rows: int, micro_batch: int
) -> Iterator[tuple[Int64Array, NDArray[np.bool_]]]:
    for batch in range(rows // micro_batch):
        chosen = slice(batch * micro_batch, (batch + 1) * micro_batch)
        mine = _read_rows(reader, shards[chosen], firsts[chosen], seq_len)
        tokens = np.zeros((micro_batch, seq_len + 1), dtype=np.int64)
        tokens[: len(mine)] = mine
        yield tokens, np.arange(micro_batch) < len(mine)


def evaluation_labels(dataset: Dataset, seq_len: int, max_tokens: int) -> Int64Array:
    """All label ids of the sequences that `evaluation_batches` gives over all ranks, int64 [sequences * seq_len]."""
    shards, firsts = _sequences(dataset, seq_len, max_tokens)
    return _read_rows(ShardReader(dataset, dataset.split("val")), shards, firsts, seq_len)[:, 1:].reshape(-1)


def _sequences(dataset: Dataset, seq_len: int, max_tokens: int) -> tuple[Int64Array, Int64Array]:
    """Shard number in the split and first token of each sequence, two int64 [sequences]."""
    tokens = np.array([shard.tokens for shard in dataset.split("val")], dtype=np.int64)
    counts = sequence_counts(tokens, seq_len)
    if not counts.any():
        raise DataError(
            f"The validation split of {dataset.dir} has no whole sequence: its largest shard holds "
            f"{int(tokens.max(initial=0))} tokens and a sequence of {seq_len} needs {seq_len + 1}; "
            "raise data.val_fraction, give data.val_sources, or lower the sequence length."
        )
    ends = np.cumsum(counts)
    chosen = np.arange(min(int(ends[-1]), max(1, max_tokens // seq_len)))
    shards = np.searchsorted(ends, chosen, side="right")
    return shards, (chosen - (ends - counts)[shards]) * seq_len


def _read_rows(reader: ShardReader, shards: Int64Array, firsts: Int64Array, seq_len: int) -> Int64Array:
    rows = np.empty((len(shards), seq_len + 1), dtype=np.int64)
    for row, shard, first in zip(rows, shards.tolist(), firsts.tolist(), strict=True):
        reader.read(shard, first, row)
    return rows
