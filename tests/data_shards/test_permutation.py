import numpy as np
import pytest

from data_shards.permutation import Int64Array, keyed_hash, mix64, permute, root_key

SIZES = [*range(1, 40), 64, 97, 101, 127, 128, 129, 997, 1000, 1024, 1025, 4099, 10_007]


def permutation_of(size: int, key: int) -> Int64Array:
    keys = np.repeat(keyed_hash(np.uint64(key), size), size)
    return permute(np.arange(size), np.full(size, size), keys)


@pytest.mark.parametrize("size", SIZES)
def test_permutation_every_size_is_a_bijection(size: int) -> None:
    for key in range(5):
        np.testing.assert_array_equal(np.sort(permutation_of(size, key)), np.arange(size))


def test_permutation_mixed_sizes_in_one_call_equal_single_calls() -> None:
    sizes = np.array([1, 2, 3, 50, 1009, 7])
    indices = np.array([0, 1, 2, 49, 1008, 3])
    keys = keyed_hash(np.uint64(9), np.arange(6))
    together = permute(indices, sizes, keys)
    alone = [permute(indices[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0] for i in range(6)]
    assert together.tolist() == alone


def test_permutation_of_three_gives_all_six_orders_equally_often() -> None:
    keys = np.repeat(keyed_hash(np.uint64(1), np.arange(6000)), 3)
    orders = permute(np.tile(np.arange(3), 6000), np.full(18_000, 3), keys).reshape(6000, 3)
    _, seen = np.unique(orders, axis=0, return_counts=True)
    assert len(seen) == 6
    assert float(((seen - 1000) ** 2 / 1000).sum()) < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


def test_permutation_image_of_one_index_is_uniform_over_keys() -> None:
    keys = keyed_hash(np.uint64(2), np.arange(20_000))
    seen = np.bincount(permute(np.full(20_000, 4), np.full(20_000, 20), keys), minlength=20)
    assert float(((seen - 1000) ** 2 / 1000).sum()) < 43.8  # 19 degrees of freedom, p = 0.001


def test_permutation_neighbours_lie_as_far_apart_as_by_chance() -> None:
    size = 10_007
    image = permutation_of(size, 3)
    distance = np.abs(np.diff(image))
    assert abs(distance.mean() / (size / 3) - 1) < 0.03  # the mean distance of two random points is size / 3
    assert np.count_nonzero(distance <= 10) < 45  # about 20 by chance
    assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 0.04
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.04


def test_permutation_keys_one_bit_apart_agree_as_seldom_as_by_chance() -> None:
    size = 4099
    key = int(keyed_hash(np.uint64(5), 1)[0])
    images = [
        permute(np.arange(size), np.full(size, size), np.full(size, key ^ flip, dtype=np.uint64))
        for flip in (0, 1, 1 << 63)
    ]
    assert np.count_nonzero(images[0] == images[1]) < 8  # one by chance
    assert np.count_nonzero(images[0] == images[2]) < 8


def test_permutation_of_a_huge_size_stays_inside_without_collision() -> None:
    size = 10**12 + 39
    image = permute(np.arange(20_000), np.full(20_000, size), keyed_hash(np.uint64(1), np.zeros(20_000, dtype=int)))
    assert len(np.unique(image)) == 20_000
    assert 0 <= image.min() < size // 100
    assert size - size // 100 < image.max() < size


def test_mix64_is_the_published_splitmix64() -> None:
    first_output_of_seed_zero = mix64(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))
    assert int(first_output_of_seed_zero[0]) == 0xE220A8397B1DCDAF


def test_root_key_tells_parts_apart() -> None:
    assert (
        len({int(root_key("a", "bc")), int(root_key("ab", "c")), int(root_key("a", 1)), int(root_key("a", "1"))}) == 4
    )
