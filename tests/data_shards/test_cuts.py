from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.cuts import decoder_labels, decoder_starts
from data_shards.evaluation import evaluation_batches
from data_shards.loader import LoaderState, TrainLoader, next_positions, rank_rows, train_order
from data_shards.packing import label_mask, piece_lengths
from tests.data_shards.loader_dataset import build_dataset

SEQ_LEN = 12
document_starts = st.lists(st.integers(1, SEQ_LEN), unique=True).map(lambda places: np.array(sorted(places), np.int64))


@given(rows=st.lists(document_starts, min_size=1, max_size=4), seed=st.integers(0, 9), first=st.integers(0, 10**12))
@settings(deadline=None)
def test_decoder_starts_drawn_leave_each_document_a_token_and_a_label(
    rows: list[np.ndarray], seed: int, first: int
) -> None:
    shape, positions = (len(rows), SEQ_LEN), first + np.arange(len(rows))
    starts = decoder_starts(positions, seed, shape, rows)
    counted = decoder_labels(starts) & label_mask(rows, SEQ_LEN)
    flat, at = starts.ravel(), 0
    for length in piece_lengths(rows, SEQ_LEN).tolist():
        place = at % SEQ_LEN
        assert len(set(flat[at : at + length].tolist())) == 1
        assert place <= flat[at] < place + max(length - 1, 1)
        assert counted.ravel()[at : at + length].any() or length == 1
        at += length
    assert np.array_equal(decoder_starts(positions[:1], seed, (1, SEQ_LEN), rows[:1]), starts[:1])


@given(rows=st.lists(document_starts, min_size=1, max_size=4), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_decoder_starts_with_a_loss_mask_are_where_the_first_label_counts(rows: list[np.ndarray], seed: int) -> None:
    mask = np.random.default_rng(seed).random((len(rows), SEQ_LEN + 1)) < 0.3
    shape = (len(rows), SEQ_LEN)
    starts = decoder_starts(np.arange(len(rows)), 0, shape, rows, mask)
    counted, at = (mask[:, 1:] & label_mask(rows, SEQ_LEN)).ravel(), 0
    assert np.array_equal(counted & decoder_labels(starts).ravel(), counted)
    for length in piece_lengths(rows, SEQ_LEN).tolist():
        own = np.flatnonzero(counted[at : at + length])
        assert (starts.ravel()[at : at + length] == at % SEQ_LEN + (own[0] if len(own) else 0)).all()
        at += length


def test_decoder_starts_drawn_are_even_and_differ_by_seed_and_position() -> None:
    positions = np.arange(24_000)
    starts = decoder_starts(positions, 5, (24_000, SEQ_LEN))[:, 0]
    counts = np.bincount(starts, minlength=SEQ_LEN)
    assert counts[-1] == 0 and len(counts) == SEQ_LEN
    assert np.abs(counts[:-1] - 24_000 / 11).max() < 5 * np.sqrt(24_000 / 11)
    assert (starts != decoder_starts(positions, 6, (24_000, SEQ_LEN))[:, 0]).mean() > 0.8


def test_loader_at_any_world_size_and_after_a_resume_cuts_a_position_alike(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [300, 200], [100])
    order = train_order(dataset, seq_len=SEQ_LEN, seed=1, streams=4, window=2, weights=None)

    def cuts(world: int, state: LoaderState) -> dict[int, int]:
        found = {}
        for rank in range(world):
            loader = TrainLoader(dataset, order, seq_len=SEQ_LEN, rank=rank, world=world, micro_batch=2, cut_seed=7)
            batch = loader.read(state, 10)
            mine = rank_rows(next_positions(state, 10)[0], rank, world)
            assert batch.decoder_starts is not None and batch.decoder_starts.shape == (len(batch.real), SEQ_LEN)
            assert int(batch.real.sum()) == len(mine)
            found |= dict(zip(mine.tolist(), batch.decoder_starts[: len(mine), 0].tolist(), strict=True))
        return found

    for consumed in (0, 10, 77):
        alone = cuts(1, LoaderState(consumed=consumed))
        assert len(alone) == 10 and cuts(2, LoaderState(consumed=consumed)) == alone
        assert cuts(3, LoaderState(consumed=consumed)) == alone
        # Of an epoch's end as well: what decides is the position, not the sequence.
    assert len({tuple(cuts(1, LoaderState(consumed=first)).values()) for first in (0, 41, 82)}) == 3


def test_evaluation_at_any_world_size_cuts_a_sequence_alike(tmp_path: Path) -> None:
    dataset = build_dataset(tmp_path, [300], [100, 61])

    def cuts(world: int) -> dict[int, int]:
        found = {}
        for rank in range(world):
            batches = evaluation_batches(
                dataset, seq_len=SEQ_LEN, rank=rank, world=world, micro_batch=2, max_tokens=10_000, cut_seed=0
            )
            for batch in batches:
                assert batch.decoder_starts is not None
                rows = zip(
                    batch.tokens[batch.real, 0].tolist(), batch.decoder_starts[batch.real, 0].tolist(), strict=True
                )
                found |= dict(rows)
        return found

    assert cuts(1) == cuts(2) == cuts(3)
    assert len(cuts(1)) == 13
