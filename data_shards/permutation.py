"""Keyed hashing and keyed permutations on 64-bit integers, as pure functions of their arguments."""

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]
Int64Array = NDArray[np.int64]

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 8


def root_key(*parts: str | int) -> np.uint64:
    """A 64-bit key from strings and integers: the first 8 bytes, little-endian, of their BLAKE2b."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def mix64(values: UInt64Array) -> UInt64Array:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014; constants by Stafford): a bijection of uint64."""
    mixed: UInt64Array = values ^ (values >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed = mixed ^ (mixed >> np.uint64(27))
    mixed = mixed * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def keyed_hash(key: np.uint64 | UInt64Array, *values: int | Int64Array) -> UInt64Array:
    """A uint64 hash of non-negative integers under a key; arguments broadcast.

    Returns: uint64 array of at least one dimension.
    """
    hashed = np.atleast_1d(np.asarray(key, dtype=np.uint64))
    for value in values:
        word = np.atleast_1d(np.asarray(value)).astype(np.uint64)
        hashed = mix64(hashed ^ mix64(word + np.uint64(_GOLDEN)))
    return hashed


def permute(indices: Int64Array, sizes: Int64Array, keys: UInt64Array) -> Int64Array:
    """Where a keyed permutation of [0, size) sends each index, in constant memory.

    A generalised Feistel network on Z_a x Z_b, with a * b just above the size, is walked until it lands inside
    (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, methods 2 and 3).

    Args: indices int64 [n], 0 <= index < size; sizes int64 [n]; keys uint64 [n], each the hash of something.
    Returns: int64 [n]; for one size and key a bijection of [0, size).
    """
    limit = sizes.astype(np.uint64)
    left_size = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    right_size = (limit + left_size - np.uint64(1)) // left_size
    image = _feistel(indices.astype(np.uint64), left_size, right_size, keys)
    outside = np.flatnonzero(image >= limit)
    while outside.size:
        image[outside] = _feistel(image[outside], left_size[outside], right_size[outside], keys[outside])
        outside = outside[image[outside] >= limit[outside]]
    return image.astype(np.int64)


def _feistel(values: UInt64Array, left_size: UInt64Array, right_size: UInt64Array, keys: UInt64Array) -> UInt64Array:
    left, right = np.divmod(values, right_size)
    round_key = keys
    for step in range(_ROUNDS):
        round_key = round_key + np.uint64(_GOLDEN)
        if step % 2 == 0:
            left = _sum_modulo(left, mix64(right ^ round_key) % left_size, left_size)
        else:
            right = _sum_modulo(right, mix64(left ^ round_key) % right_size, right_size)
    return left * right_size + right


def _sum_modulo(a: UInt64Array, b: UInt64Array, modulus: UInt64Array) -> UInt64Array:
    """(a + b) mod modulus for a, b < modulus < 2**63, without a division."""
    total = a + b
    reduced: UInt64Array = np.minimum(total, total - modulus)  # below zero it wraps around to a huge number
    return reduced
