"""Any world size reads what any other wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.checkpoint_world import BUFFERS, FROZEN, SHAPES, manifest_of, path_of, save, snapshots, state, whole
from trainer.checkpoint.fragments import KINDS
from trainer.checkpoint.load import CheckpointReader, read_full_parameters
from trainer.errors import TrainError


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(saved=st.integers(1, 5), loading=st.integers(1, 5), seed=st.integers(0, 99))
def test_reader_on_another_world_size_reads_the_same_bits(tmp_path: Path, saved: int, loading: int, seed: int) -> None:
    result = save(tmp_path, world_size=saved, seed=seed)
    with CheckpointReader(result.address, manifest_of(result)) as reader:
        for snap in snapshots(state(seed), loading):
            for fragment in snap.fragments:
                for kind in KINDS:
                    out = torch.full((fragment.length,), float("nan"))
                    reader.read_into(out, fragment.name, kind, fragment.start)
                    assert torch.equal(out, getattr(fragment, kind))
                assert reader.step(fragment.name) == 17.0


def test_reader_gives_unowned_tensors_and_rank_tensors(tmp_path: Path) -> None:
    result = save(tmp_path)
    with CheckpointReader(result.address, manifest_of(result)) as reader:
        assert torch.equal(reader.frozen("frozen.weight"), FROZEN["frozen.weight"])
        assert torch.equal(reader.buffer("mask"), BUFFERS["mask"])
        assert reader.rank_tensors(0, 3) is None
        own = reader.rank_tensors(1, 2)
        assert own is not None
        assert own.keys() == {"torch"}
        assert own["torch"].tolist() == [1, 255]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"embed.weight": (7, 6)},
            r"'embed\.weight' must have the model's shape \(7, 6\), the checkpoint has \(7, 5\)",
        ),
        ({"more": (1,)}, r"'more' must have the model's shape \(1,\), the checkpoint has None"),
    ],
)
def test_reader_of_another_model_is_refused(tmp_path: Path, change: dict[str, tuple[int, ...]], message: str) -> None:
    result = save(tmp_path)
    frozen, buffers = {"frozen.weight": (2, 3)}, {"mask": (3,)}
    with CheckpointReader(result.address, manifest_of(result)) as reader:
        reader.check_model(SHAPES, frozen, buffers)
        with pytest.raises(TrainError, match=message):
            reader.check_model(SHAPES | change, frozen, buffers)
        with pytest.raises(TrainError, match=r"frozen parameter 'frozen\.weight'"):
            reader.check_model(SHAPES, {}, buffers)


def test_read_full_parameters_gives_every_parameter_once(tmp_path: Path) -> None:
    result = save(tmp_path, world_size=3, seed=4)
    expected = whole(state(4)) | FROZEN
    found = list(read_full_parameters(result.address))
    assert [name for name, _ in found] == list(expected)
    for name, tensor in found:
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name])
    assert len(list(read_full_parameters(result.address, manifest_of(result)))) == len(expected)


def test_read_full_parameters_of_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = path_of(save(tmp_path)) / "rank-00000-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainError, match="rank-00000-of-00002"):
        next(read_full_parameters(path.parent))
