import math

import numpy as np
import pytest

from data_shards.order import Order
from data_shards.shuffle_quality import ShuffleQuality, origins_of_order, shuffle_quality

SEQ_LEN, PER_SHARD = 8, 50


def quality_of_window(window: int, shards: int = 768, streams: int = 48, batch: int = 256) -> ShuffleQuality:
    tokens = np.full(shards, PER_SHARD * SEQ_LEN + 1)
    order = Order(
        tokens,
        ["a"] * shards,
        seq_len=SEQ_LEN,
        seed=3,
        streams=streams,
        window=window,
        weights=None,
        fingerprint="f",
    )
    return shuffle_quality(*origins_of_order(order, tokens), batch)


def test_quality_of_random_permutations_is_the_figure_in_brackets() -> None:
    generator, found = np.random.default_rng(0), []
    for _ in range(20):
        origins = generator.permutation(20_000)
        found.append(list(vars(shuffle_quality(origins, origins // 100, 32)).values()))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(len(found))
    assert np.abs(mean - [1 / 3, 0, 0, 1, 1]).max() < 0.03
    assert (np.abs(mean - [1 / 3, 0, 0, 1, 1]) < 4 * error + 1e-4).all()


def test_quality_of_the_corpus_in_its_own_order_is_none() -> None:
    origins = np.arange(0, 7000, 7)
    quality = shuffle_quality(origins, origins // 700, 10)
    assert quality.neighbour_distance == pytest.approx(1 / 1000)
    assert quality.neighbour_correlation == pytest.approx(1.0)
    assert quality.progress_correlation == pytest.approx(1.0)
    assert quality.batch_drift == pytest.approx(math.sqrt(10), rel=0.01)  # a batch is worth one sample, not ten
    assert quality.same_shard == pytest.approx(999 / 99)  # all pairs, where 99 of 999 are by chance


def test_quality_of_a_hand_made_order_counts_pairs_and_distances() -> None:
    quality = shuffle_quality(np.array([0, 3, 1, 2]), np.array([0, 1, 0, 1]), 2)
    assert quality.neighbour_distance == pytest.approx((3 + 2 + 1) / 3 / 4)
    assert quality.same_shard == 0.0
    assert shuffle_quality(np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1]), 2).same_shard == pytest.approx(4 / (4 / 3))


def test_quality_does_not_depend_on_the_unit_of_origins_or_names_of_shards() -> None:
    origins = np.random.default_rng(1).permutation(640)
    plain = shuffle_quality(origins, origins // 64, 16)
    assert shuffle_quality(origins**2 + 5, 900 - origins // 64, 16) == plain


def test_quality_of_an_order_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="30 sequences in batches of 16: two batches"):
        shuffle_quality(np.arange(30), np.zeros(30, dtype=np.int64), 16)


def test_origins_of_an_epoch_are_each_sequence_once() -> None:
    tokens = np.array([41, 9, 100])
    order = Order(
        tokens, ["a"] * 3, seq_len=SEQ_LEN, seed=1, streams=4, window=2, weights=None, fingerprint="f"
    )  # 5 + 1 + 12 sequences
    origins, shards = origins_of_order(order, tokens)
    expected = [0, 8, 16, 24, 32, 41, *range(50, 146, 8)]
    assert sorted(origins.tolist()) == expected
    assert shards.tolist() == [0 if origin < 41 else 1 if origin < 50 else 2 for origin in origins]
    later, _ = origins_of_order(order, tokens, epoch=1)
    assert len(set(later.tolist())) == 18
    assert later.tolist() != origins.tolist()


def test_quality_of_the_default_window_is_near_a_random_permutation_and_wider_windows_nearer() -> None:
    one, default, wide = (quality_of_window(window) for window in (1, 8, 64))
    for quality in (one, default, wide):
        assert quality.neighbour_distance == pytest.approx(1 / 3, abs=0.02)
        assert abs(quality.neighbour_correlation) < 0.06
        assert abs(quality.progress_correlation) < 0.12
    assert one.batch_drift > default.batch_drift > wide.batch_drift
    assert default.batch_drift < 1.3
    assert one.same_shard > 3 > default.same_shard > wide.same_shard
