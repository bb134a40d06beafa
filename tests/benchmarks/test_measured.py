from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.data.peers.measured import SequenceDigest, Stretch, documents_digest

EOT = 9


def test_documents_digest_is_the_same_in_any_order_and_over_any_streams() -> None:
    one = documents_digest([np.array([1, 2, EOT, 3, EOT, 4, 4, EOT])], EOT)
    two = documents_digest([np.array([4, 4, EOT]), np.array([3, EOT, 1, 2, EOT])], EOT)
    assert one == two
    assert one.startswith("3 documents ")


@pytest.mark.parametrize("other", [[1, 2, EOT], [1, 2, EOT, 3, EOT, 3, EOT], [2, 1, EOT, 3, EOT], [1, EOT, 2, 3, EOT]])
def test_documents_digest_of_other_documents_differs(other: list[int]) -> None:
    whole = documents_digest([np.array([1, 2, EOT, 3, EOT])], EOT)
    assert documents_digest([np.array(other)], EOT) != whole


def test_documents_digest_of_two_equal_documents_counts_both() -> None:
    twice = documents_digest([np.array([5, EOT, 5, EOT])], EOT)
    single = int.from_bytes(hashlib.blake2b(np.array([5], "<u2").tobytes(), digest_size=16).digest())
    assert twice == f"2 documents {2 * single % 2**128:032x}"


def test_documents_digest_of_a_cut_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="without the end mark"):
        documents_digest([np.array([1, EOT, 2])], EOT)


def digest_of(*batches: list[list[int]]) -> str:
    digest = SequenceDigest(3)
    for batch in batches:
        digest.add(np.array(batch, dtype=np.int64))
    return digest.name()


def test_sequence_digest_knows_the_sequences_not_their_order() -> None:
    whole = digest_of([[1, 2, 3], [4, 5, 6]])
    assert digest_of([[4, 5, 6]], [[1, 2, 3]]) == whole
    assert whole.startswith("2 sequences, 2 different, ")


def test_sequence_digest_knows_other_tokens_other_places_and_doubles() -> None:
    whole = digest_of([[1, 2, 3], [4, 5, 6]])
    assert digest_of([[1, 3, 2], [4, 5, 6]]) != whole
    assert digest_of([[1, 2, 3], [4, 5, 7]]) != whole
    assert digest_of([[1, 2, 3], [1, 2, 3]]).startswith("2 sequences, 1 different, ")


def test_stretch_counts_the_cpu_time_of_children_that_ended_within_it() -> None:
    with Stretch() as stretch:
        subprocess.run([sys.executable, "-S", "-c", "for _ in range(2_000_000): pass"], check=True)
    assert stretch.cpu_seconds > 0.01
    assert stretch.wall_seconds >= stretch.cpu_seconds * 0.5
