from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.fragments import Fragment
from trainer.checkpoint.memory import NOTE_BYTES, SnapshotMemory, copies_of, snapshot_bytes
from trainer.checkpoint.memory_layout import ACKED_PLACE, COPIES_PLACE, PAGE_BYTES, pack_number, read_numbers

ELEMENTS = 7
IDENTITY = {"run_id": "a", "rank": 0}


@pytest.fixture
def fd() -> Iterator[int]:
    """Anonymous memory, as a supervisor makes it."""
    number = os.memfd_create("test")
    yield number
    os.close(number)


def fragments(value: float) -> list[Fragment]:
    def tensors(count: int) -> list[torch.Tensor]:
        return [torch.arange(count, dtype=torch.float32) + value + kind for kind in range(3)]

    return [Fragment("w", 0, *tensors(4), step=value), Fragment("b", 2, *tensors(3), step=value)]


def values(parts: list[Fragment]) -> list[list[float]]:
    return [tensor.tolist() for part in parts for tensor in (part.master, part.exp_avg, part.exp_avg_sq)]


def test_memory_fresh_holds_nothing(fd: int) -> None:
    assert SnapshotMemory(fd, IDENTITY, ELEMENTS).steps() == []
    assert os.fstat(fd).st_size == snapshot_bytes(ELEMENTS)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True).map(sorted))
def test_memory_of_rising_steps_keeps_the_last_two_for_the_next_rank(steps: list[int]) -> None:
    number = os.memfd_create("test")
    writer = SnapshotMemory(number, IDENTITY, ELEMENTS)
    for step in steps:
        writer.write(step, {"step": step}, fragments(step))
    reader = SnapshotMemory(number, IDENTITY, ELEMENTS)
    assert reader.steps() == steps[-2:]
    for step in reader.steps():
        restored = fragments(-1.0)
        assert reader.read_into(step, restored) == {"step": step}
        assert values(restored) == values(fragments(step))
    os.close(number)


def test_memory_of_a_rank_killed_while_it_writes_still_holds_the_step_before(fd: int) -> None:
    memory = SnapshotMemory(fd, IDENTITY, ELEMENTS)
    memory.write(1, {}, fragments(1))
    memory.write(2, {}, fragments(2))

    class Killed(Exception):
        pass

    class Deadly(Fragment):
        def __getattribute__(self, name: str) -> object:
            if name == "exp_avg_sq":
                raise Killed
            return super().__getattribute__(name)

    with pytest.raises(Killed):
        memory.write(3, {}, [Deadly("w", 0, *[torch.zeros(4)] * 3, step=3.0)])
    reader = SnapshotMemory(fd, IDENTITY, ELEMENTS)
    assert reader.steps() == [2]
    restored = fragments(-1.0)
    reader.read_into(2, restored)
    assert values(restored) == values(fragments(2))


@pytest.mark.parametrize(
    ("identity", "elements"), [({"run_id": "b", "rank": 0}, ELEMENTS), (IDENTITY, ELEMENTS + 5000)]
)
def test_memory_of_another_run_or_size_is_forgotten(fd: int, identity: dict[str, object], elements: int) -> None:
    SnapshotMemory(fd, IDENTITY, ELEMENTS).write(4, {}, fragments(4))
    assert SnapshotMemory(fd, identity, elements).steps() == []


def test_memory_gone_back_to_a_step_forgets_what_is_newer(fd: int) -> None:
    memory = SnapshotMemory(fd, IDENTITY, ELEMENTS)
    for step in (4, 6):
        memory.write(step, {}, fragments(step))
    memory.forget_after(4)
    assert memory.steps() == [4]
    memory.write(5, {}, fragments(5))
    assert memory.steps() == [4, 5]


def test_memory_note_too_large_is_refused_before_anything_is_overwritten(fd: int) -> None:
    memory = SnapshotMemory(fd, IDENTITY, ELEMENTS)
    memory.write(1, {}, fragments(1))
    with pytest.raises(ValueError, match="may have"):
        memory.write(2, {"long": "x" * NOTE_BYTES}, fragments(2))
    assert memory.steps() == [1]


def test_memory_of_a_keeper_awaits_a_copy_of_each_snapshot_until_it_is_acknowledged(fd: int) -> None:
    os.ftruncate(fd, PAGE_BYTES)
    assert copies_of(fd) == 0
    os.pwrite(fd, pack_number(1), COPIES_PLACE)
    memory = SnapshotMemory(fd, IDENTITY, ELEMENTS)
    assert copies_of(fd) == 1
    assert not memory.awaits_copy
    for step in (1, 2):
        memory.write(step, {}, fragments(step))
        assert memory.awaits_copy
        numbers = read_numbers(os.pread(fd, PAGE_BYTES, 0))
        assert numbers.newest is not None
        os.pwrite(fd, pack_number(numbers.slots[numbers.newest].version), ACKED_PLACE)
        assert not memory.awaits_copy
    memory.forget_after(1)  # the one before, which is held elsewhere too
    memory.write(2, {}, fragments(2))
    assert memory.awaits_copy  # the same step again, perhaps of other values
    os.pwrite(fd, pack_number(0), COPIES_PLACE)
    assert not memory.awaits_copy


def test_memory_gives_each_write_a_number_of_its_own_over_all_ranks_that_use_it(fd: int) -> None:
    versions = []
    for step in (3, 4, 3, 5):
        memory = SnapshotMemory(fd, IDENTITY, ELEMENTS)
        memory.forget_after(step - 1)
        memory.write(step, {}, fragments(step))
        numbers = read_numbers(os.pread(fd, PAGE_BYTES, 0))
        assert numbers.newest is not None
        versions.append(numbers.slots[numbers.newest].version)
    assert versions == [1, 2, 3, 4]
    assert numbers.forgets == 4
