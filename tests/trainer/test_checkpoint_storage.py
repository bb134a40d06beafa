"""A folder and an object store keep the same promises."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data_shards.object_folder import ObjectFolder
from tests.data_shards.remote import memory_address
from tests.data_shards.s3 import bucket, s3_server  # noqa: F401  fixtures
from tests.trainer.checkpoint_world import FROZEN, manifest_of, save, state, whole
from trainer.checkpoint.load import CheckpointReader, read_full_parameters
from trainer.checkpoint.manifest import MANIFEST_NAME
from trainer.checkpoint.object_storage import LEASE_SECONDS
from trainer.checkpoint.retention import prune
from trainer.checkpoint.storage import open_storage
from trainer.checkpoint.store import (
    incomplete_folders,
    inspect_checkpoint,
    list_checkpoints,
    newest_good,
    verify_checkpoint,
)
from trainer.errors import TrainError

RANK_1 = "rank-00001-of-00002.safetensors"


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        yield f"{request.getfixturevalue('bucket')}/run"
    else:
        yield memory_address() if request.param == "memory" else str(tmp_path / "elsewhere")


def test_checkpoint_elsewhere_is_listed_verified_inspected_and_read(tmp_path: Path, address: str) -> None:
    for step in (100, 200):
        result = save(tmp_path, step=step, address=address, seed=step)
    assert not (tmp_path / "checkpoints").exists()
    assert [entry.address for entry in list_checkpoints(tmp_path, address)] == [
        f"{address}/step-00000100",
        f"{address}/step-00000200",
    ]
    assert incomplete_folders(tmp_path, address) == []
    assert verify_checkpoint(result.address) == []
    assert inspect_checkpoint(result.address)["bytes"] == result.bytes
    choice = newest_good(tmp_path, address)
    assert choice is not None
    assert (choice.address, choice.manifest.step, choice.skipped) == (result.address, 200, ())
    expected = whole(state(200)) | FROZEN
    found = dict(read_full_parameters(choice.address, choice.manifest))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "garbage manifest"])
def test_checkpoint_elsewhere_that_is_damaged_is_passed_over_by_name(tmp_path: Path, address: str, damage: str) -> None:
    for step in (100, 200):
        save(tmp_path, step=step, address=address)
    storage = open_storage(address)
    name = f"step-00000200/{MANIFEST_NAME if 'manifest' in damage else RANK_1}"
    content = bytearray(storage.read(name) or b"")
    content[-1] ^= 1
    storage.withdraw(name)
    if damage != "missing":
        data = {"cut": bytes(content[:-5]), "garbage manifest": b"{"}.get(damage, bytes(content))
        storage.write(name, iter([data]))
    choice = newest_good(tmp_path, address)
    assert choice is not None
    assert choice.manifest.step == 100
    assert [path for path, _ in choice.skipped] == [f"{address}/step-00000200"]
    assert f"{address}/{name}" in choice.skipped[0][1]


def test_checkpoint_elsewhere_that_is_read_is_not_removed(tmp_path: Path, address: str) -> None:
    first = save(tmp_path, step=100, address=address, keep=9)
    for step in (200, 300):
        save(tmp_path, step=step, address=address, keep=9)
    with CheckpointReader(first.address, manifest_of(first)) as reader:
        assert prune(tmp_path, address, keep=2, attempt=1) == []
        assert torch.equal(reader.full("embed.weight"), whole(state())["embed.weight"])
        assert verify_checkpoint(first.address) == []
    assert prune(tmp_path, address, keep=2, attempt=1) == ["step-00000100"]
    assert [entry.step for entry in list_checkpoints(tmp_path, address)] == [200, 300]
    assert incomplete_folders(tmp_path, address) == []
    with (
        CheckpointReader(first.address, reader.manifest) as reader,
        pytest.raises(TrainError, match=r"step-00000100/rank-00000-of-00002\.safetensors: was removed"),
    ):
        reader.full("embed.weight")


def test_lease_of_a_reader_that_died_ends(tmp_path: Path) -> None:
    address = memory_address()
    for step in (100, 200, 300):
        save(tmp_path, step=step, address=address, keep=9)
    folder = ObjectFolder(address)
    folder.write("step-00000100/reader-x.lease", repr(time.time() - LEASE_SECONDS + 30).encode())
    assert prune(tmp_path, address, keep=2, attempt=1) == []
    folder.write("step-00000100/reader-x.lease", repr(time.time() - LEASE_SECONDS - 30).encode())
    assert prune(tmp_path, address, keep=2, attempt=1) == ["step-00000100"]


def test_manifest_of_another_process_is_not_replaced_in_an_object_store() -> None:
    storage = open_storage(memory_address())
    storage.publish("step-00000100/manifest.json", b"mine")
    storage.publish("step-00000100/manifest.json", b"mine")  # a put whose answer was lost
    with pytest.raises(TrainError, match="another process has written it"):
        storage.publish("step-00000100/manifest.json", b"yours")


def test_save_of_a_step_again_by_the_same_attempt_has_the_new_values(tmp_path: Path, address: str) -> None:
    save(tmp_path, step=100, address=address, seed=1, number=1)
    again = save(tmp_path, step=100, address=address, seed=2, number=2)
    assert verify_checkpoint(again.address) == []
    found = dict(read_full_parameters(again.address))
    assert torch.equal(found["embed.weight"], whole(state(2))["embed.weight"])


def test_marks_are_of_their_save_alone(tmp_path: Path, address: str) -> None:
    save(tmp_path, step=100, address=address)
    storage = open_storage(address)
    mark = json.loads(storage.read("step-00000100/rank-00001-of-00002.done.json") or b"")
    assert (mark["attempt"], mark["step"], mark["save"]) == (1, 100, 1)
    assert mark["record"]["name"] == RANK_1
