"""The held-out sequences, in one fixed order, split over ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_shards.cuts import decoder_starts
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loader import rows_per_rank
from data_shards.permutation import Int64Array
from data_shards.pool import sequence_counts
from data_shards.shard_reader import ShardReader


@dataclass(frozen=True)
class EvaluationBatch:
    """One rank's rows of an evaluation step; all ranks have equally many batches."""

    tokens: Int64Array  # [micro_batch, T+1]; zeros in a pad row
    real: NDArray[np.bool_]  # [micro_batch]; False marks a pad row
    # For each row the places in it, above 0 and rising, where a document begins; None if not asked for.
    document_starts: tuple[Int64Array, ...] | None = None
    loss_mask: NDArray[np.bool_] | None = None  # [micro_batch, T+1]; whether the loss counts a token; None: all
    decoder_starts: Int64Array | None = None  # [micro_batch, T], as `cuts.decoder_starts`; None if not asked for


def evaluation_batches(
    dataset: Dataset,
    *,
    seq_len: int,
    rank: int,
    world: int,
    micro_batch: int,
    max_tokens: int,
    with_documents: bool = False,
    cut_seed: int | None = None,
) -> Iterator[EvaluationBatch]:
    """This rank's batches of the first max_tokens // seq_len held-out sequences (at least one; all, if fewer).

    Sequence p, in manifest order, goes to rank p mod world; every rank gets the same number of batches. With `cut_seed`
    they tell where texts are cut.
    Raises: DataError if the validation split has no whole sequence, or a file is damaged.
    """
    dataset.check_seq_len(seq_len)
    shards, firsts = _sequences(dataset, seq_len, max_tokens)
    rows = rows_per_rank(len(shards), world, micro_batch)
    reader = ShardReader(dataset, dataset.split("val"))
    shape, mine = (micro_batch, seq_len + 1), (shards[rank::world], firsts[rank::world])
    positions = np.arange(len(shards))[rank::world]
    parts = [slice(start, start + micro_batch) for start in range(0, rows, micro_batch)]
    batches = (_batch(reader, mine[0][part], mine[1][part], shape, with_documents) for part in parts)
    if cut_seed is None:
        return batches
    return (_cut(batch, positions[part], cut_seed) for batch, part in zip(batches, parts, strict=True))


def _cut(batch: EvaluationBatch, positions: Int64Array, seed: int) -> EvaluationBatch:
    rows, length = batch.tokens.shape
    starts = decoder_starts(positions, seed, (rows, length - 1), batch.document_starts, batch.loss_mask)
    return replace(batch, decoder_starts=starts)


def _batch(
    reader: ShardReader, shards: Int64Array, firsts: Int64Array, shape: tuple[int, int], with_documents: bool
) -> EvaluationBatch:
    tokens, loss_mask = reader.read_counted_rows(shards, firsts, shape)
    return EvaluationBatch(
        tokens=tokens,
        real=np.arange(shape[0]) < len(shards),
        document_starts=reader.starts_of_rows(shards, firsts, shape) if with_documents else None,
        loss_mask=loss_mask,
    )


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
