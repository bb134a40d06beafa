from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from trainer.checkpoint.former import open_former
from trainer.checkpoint.fragments import KINDS, Fragment
from trainer.checkpoint.memory import SnapshotMemory
from trainer.errors import TrainError

ELEMENTS = {"a": 10, "b": 7}
OFFSETS = {"master": 0.0, "exp_avg": 0.25, "exp_avg_sq": 0.5}

Span = tuple[str, int, int]


def fragment(span: Span, filled: bool) -> Fragment:
    """The elements of a span: element i of a parameter has the value i, its moments i + 0.25 and i + 0.5."""
    name, start, length = span
    values = torch.arange(start, start + length, dtype=torch.float32)
    tensors = {kind: values + OFFSETS[kind] if filled else torch.full((length,), -1.0) for kind in KINDS}
    return Fragment(name, start, **tensors, step=0.0)


def kept(spans: list[Span], rank: int, world_size: int, step: int, run_key: str = "run") -> int:
    """A descriptor of memory with a rank's snapshots of this step and the one before."""
    fd = os.memfd_create("test")
    memory = SnapshotMemory(fd, {"rank": rank}, sum(length for _, _, length in spans))
    fragments = [fragment(span, filled=True) for span in spans]
    note = {"spans": spans, "run_key": run_key, "world_size": world_size, "updates": [float(step)] * len(spans)}
    memory.write(step - 1, {**note, "tokens": -1}, fragments)
    memory.write(step, {**note, "tokens": 640}, fragments)
    return fd


@pytest.fixture
def fds() -> Iterator[list[int]]:
    found: list[int] = []
    yield found
    for fd in found:
        os.close(fd)


@pytest.mark.parametrize(
    "wanted",
    [
        [("a", 0, 10), ("b", 0, 7)],
        [("a", 0, 4)],
        [("a", 4, 6), ("b", 0, 2)],
        [("b", 2, 5)],
    ],
)
def test_former_snapshots_fill_what_a_rank_of_another_size_holds(fds: list[int], wanted: list[Span]) -> None:
    former = [[("a", 0, 3)], [("a", 3, 6)], [("a", 9, 1), ("b", 0, 7)]]
    fds += [kept(spans, rank, 3, step=8) for rank, spans in enumerate(former)]
    found = open_former(fds, "run")
    assert found is not None
    assert (found.step, found.note["tokens"]) == (8, 640)
    empty = [fragment(span, filled=False) for span in wanted]
    assert found.read_into(empty) == [8.0] * len(wanted)
    for got, span in zip(empty, wanted, strict=True):
        want = fragment(span, filled=True)
        for kind in KINDS:
            assert getattr(got, kind).tolist() == getattr(want, kind).tolist()


def test_former_snapshots_of_which_each_rank_holds_all_fill_any_rank(fds: list[int]) -> None:
    whole = [("a", 0, 10), ("b", 0, 7)]
    fds += [kept(whole, rank, 2, step=3) for rank in range(2)]
    found = open_former(fds, "run")
    assert found is not None
    [part] = [fragment(("a", 2, 5), filled=False)]
    assert found.read_into([part]) == [3.0]
    assert part.exp_avg_sq.tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]


def test_former_snapshots_with_a_hole_are_refused(fds: list[int]) -> None:
    fds += [kept([("a", 0, 3)], 0, 2, step=8), kept([("a", 4, 6)], 1, 2, step=8)]
    found = open_former(fds, "run")
    assert found is not None
    with pytest.raises(TrainError, match="element 3 is in no saved fragment"):
        found.read_into([fragment(("a", 0, 10), filled=False)])


def test_former_snapshots_of_another_run_or_step_or_not_of_all_ranks_do_not_count(fds: list[int]) -> None:
    fds += [kept([("a", 0, 3)], 0, 2, step=8), kept([("a", 3, 7)], 1, 2, step=9), os.memfd_create("empty")]
    first, later, empty = fds
    assert open_former([], "run") is None
    assert open_former([first, later], "run") is None
    assert open_former([first, empty], "run") is None
    assert open_former([first], "run") is None  # the note says that there were two
    assert open_former([first, first], "other run") is None
    assert open_former([first, first], "run") is not None
