"""The copy of a snapshot has the values of its moment, in memory that is used again."""

from __future__ import annotations

import torch

from tests.trainer.checkpoint_world import BUFFERS, snapshots, state
from trainer.checkpoint.copies import CopyMemory
from trainer.checkpoint.fragments import KINDS, Snapshot


def values(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    found = {f"{part.name} {kind}": getattr(part, kind) for part in snapshot.fragments for kind in KINDS}
    return found | dict(snapshot.buffers) | dict(snapshot.rank_tensors)


def made(memory: CopyMemory, snapshot: Snapshot) -> Snapshot:
    copy = memory.begin(snapshot)
    copy.make()
    return copy.snapshot


def test_copy_of_buffers_is_made_at_once_since_a_forward_pass_may_change_them() -> None:
    [snapshot] = snapshots(state(3), 1)
    before = {name: tensor.clone() for name, tensor in snapshot.buffers.items()}
    copy = CopyMemory().begin(snapshot)
    for tensor in snapshot.buffers.values():
        tensor.zero_()
    found = dict(copy.snapshot.buffers)
    for name, tensor in before.items():
        BUFFERS[name].copy_(tensor)
    assert found.keys() == before.keys() and len(found) > 0
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def test_copy_keeps_values_shapes_and_types_while_the_originals_go_on() -> None:
    [snapshot] = snapshots(state(3), 1)
    before = {name: tensor.clone() for name, tensor in values(snapshot).items()}
    copy = made(CopyMemory(), snapshot)
    for tensor in values(snapshot).values():
        tensor.zero_()
    found = values(copy)
    BUFFERS["mask"].copy_(before["mask"])
    assert found.keys() == before.keys()
    for name, tensor in before.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)
    assert [(part.name, part.start, part.step) for part in copy.fragments] == [
        (part.name, part.start, part.step) for part in snapshot.fragments
    ]
    assert (copy.shapes, copy.loss_scale) == (snapshot.shapes, snapshot.loss_scale)
    assert copy.frozen is snapshot.frozen


def test_copy_takes_the_memory_of_the_one_before() -> None:
    memory = CopyMemory()
    [first], [second] = snapshots(state(1), 1), snapshots(state(2), 1)
    addresses = [tensor.data_ptr() for tensor in values(made(memory, first)).values()]
    again = made(memory, second)
    assert [tensor.data_ptr() for tensor in values(again).values()] == addresses
    assert all(torch.equal(values(again)[name], tensor) for name, tensor in values(second).items())


def test_copy_of_a_rank_that_owns_nothing_is_empty() -> None:
    copy = made(CopyMemory(), Snapshot({"a": (3,)}, []))
    assert (list(copy.fragments), copy.buffers, copy.rank_tensors) == ([], {}, {})
