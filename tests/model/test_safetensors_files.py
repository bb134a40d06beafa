from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from model.safetensors_files import SafetensorsFiles, index_json, plan_files

SHAPES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=12)


@given(SHAPES, st.integers(1, 2000), st.sampled_from([torch.float32, torch.bfloat16]))
def test_plan_holds_every_tensor_once_in_order_and_keeps_to_the_limit(
    shapes: list[tuple[int, ...]], max_bytes: int, dtype: torch.dtype
) -> None:
    named = {f"t{index}": shape for index, shape in enumerate(shapes)}
    plans = plan_files(named, dtype, max_bytes)
    assert [name for plan in plans for name in plan.starts] == list(named)
    for number, plan in enumerate(plans, 1):
        sizes = [math.prod(named[name]) * dtype.itemsize for name in plan.starts]
        assert plan.data_bytes == sum(sizes)
        assert len(sizes) == 1 or sum(sizes) <= max_bytes
        assert list(plan.starts.values()) == [len(plan.head) + sum(sizes[:i]) for i in range(len(sizes))]
        assert len(plan.head) % 8 == 0
        several = f"model-{number:05d}-of-{len(plans):05d}.safetensors"
        assert plan.name == (several if len(plans) > 1 else "model.safetensors")
    assert index_json(plans)["metadata"] == {"total_size": sum(plan.data_bytes for plan in plans)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_files_written_in_any_order_are_read_by_the_library(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 5, dtype=dtype),
        "b": torch.randn(7, dtype=dtype),
        "c": torch.randn(4, 2).to(dtype).T,
    }
    plans = plan_files({name: tuple(tensor.shape) for name, tensor in tensors.items()}, dtype, 60)
    with SafetensorsFiles(tmp_path, plans) as files:
        for name in reversed(tensors):
            files.write(name, tensors[name])
        assert not list(tmp_path.glob("model*"))
        files.publish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(plan.name for plan in plans)
    for plan in plans:
        found = load_file(tmp_path / plan.name)
        assert list(found) == list(plan.starts)
        assert all(torch.equal(found[name], tensors[name]) for name in found)


def test_files_that_were_not_published_go(tmp_path: Path) -> None:
    plans = plan_files({"a": (3,)}, torch.float32, 100)
    with SafetensorsFiles(tmp_path, plans) as files:
        files.write("a", torch.ones(3))
    assert list(tmp_path.iterdir()) == []
