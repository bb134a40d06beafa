"""Which checkpoint is loaded after which damage, and which ones are removed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.checkpoint_world import checkpoint_folder, path_of, save, snapshots, state, task
from trainer.checkpoint import store
from trainer.checkpoint.files import hash_file
from trainer.checkpoint.manifest import MANIFEST_NAME
from trainer.checkpoint.retention import prune
from trainer.checkpoint.save import SaveTask, save_checkpoint, write_part
from trainer.checkpoint.store import (
    NO_MANIFEST,
    Choice,
    agree_on_checkpoint,
    incomplete_folders,
    inspect_checkpoint,
    list_checkpoints,
    newest_good,
    verify_checkpoint,
)
from trainer.errors import TrainError

RANK_1 = "rank-00001-of-00002.safetensors"
MARK_1 = "rank-00001-of-00002.done.json"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def keep_and_send(sent: list[Any]) -> Callable[[Any], Any]:
    """Rank 0's broadcast: what it sends is kept for the other ranks."""

    def broadcast(value: Any) -> Any:
        sent.append(value)
        return value

    return broadcast


def names(out_dir: Path) -> list[str]:
    return sorted(path.name for path in (out_dir / "checkpoints").iterdir())


def test_newest_good_of_an_empty_out_dir_is_none(tmp_path: Path) -> None:
    assert newest_good(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert newest_good(tmp_path) is None


def test_newest_good_of_whole_checkpoints_is_the_newest(tmp_path: Path) -> None:
    save(tmp_path, step=200)
    result = save(tmp_path, step=400)
    choice = newest_good(tmp_path)
    assert choice is not None
    assert path_of(choice) == path_of(result) == tmp_path / "checkpoints/step-00000400"
    assert (choice.manifest.step, choice.skipped) == (400, ())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("region", [0.0, 0.004, 0.3, 0.5, 0.8, 0.9999])
def test_newest_good_after_a_flipped_bit_falls_back_and_names_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rank: int, region: float
) -> None:
    save(tmp_path, step=200)
    bad = path_of(save(tmp_path, step=400)) / f"rank-0000{rank}-of-00002.safetensors"
    flip(bad, int(bad.stat().st_size * region))
    with caplog.at_level(logging.WARNING):
        choice = newest_good(tmp_path)
    assert choice is not None
    assert choice.manifest.step == 200
    assert [path for path, _ in choice.skipped] == [str(bad.parent)]
    assert str(bad) in choice.skipped[0][1]
    assert str(bad) in caplog.text
    assert verify_checkpoint(bad.parent) == [choice.skipped[0][1]]


@pytest.mark.parametrize("damage", ["cut", "missing", "longer", "garbage manifest", "cut manifest", "other manifest"])
def test_newest_good_after_damage_falls_back_and_names_the_file(tmp_path: Path, damage: str) -> None:
    save(tmp_path, step=200)
    folder = path_of(save(tmp_path, step=400))
    bad = folder / (MANIFEST_NAME if "manifest" in damage else RANK_1)
    content = bad.read_bytes()
    if damage == "missing":
        bad.unlink()
    elif damage == "other manifest":
        body = json.loads(content)
        bad.write_text(json.dumps({**body, "step": 600}))
    else:
        bad.write_bytes({"longer": content + b"x", "garbage manifest": b"{garbage"}.get(damage, content[:-40]))
    choice = newest_good(tmp_path)
    assert choice is not None
    assert choice.manifest.step == 200
    assert str(bad) in choice.skipped[0][1]


def test_newest_good_where_the_disk_fails_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, step=200)
    bad = path_of(save(tmp_path, step=400)) / RANK_1

    def hash_or_fail(path: Path, like: str) -> str:
        if path == bad:
            raise OSError(5, "Input/output error")
        return hash_file(path, like)

    monkeypatch.setattr(store, "hash_file", hash_or_fail)
    choice = newest_good(tmp_path)
    assert choice is not None
    assert choice.manifest.step == 200
    assert f"{bad}: cannot be read" in choice.skipped[0][1]


def test_newest_good_with_none_whole_is_an_error_that_names_a_file(tmp_path: Path) -> None:
    for step in (200, 400):
        flip(path_of(save(tmp_path, step=step)) / RANK_1, 500)
    with pytest.raises(TrainError, match=r"none of the 2 checkpoints is whole.*step-00000400/rank-00001-of"):
        newest_good(tmp_path)


def test_newest_good_after_a_kill_before_the_manifest_is_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, step=200)
    torn = checkpoint_folder(tmp_path, 400, 1)
    for rank in (0, 1):
        part = task(tmp_path, rank, step=400)
        write_part(part.open(), part)
    choice = newest_good(tmp_path)
    assert choice is not None
    assert (choice.manifest.step, choice.skipped) == (200, ((str(torn), NO_MANIFEST),))
    assert [entry.address for entry in incomplete_folders(tmp_path)] == [str(torn)]


def test_newest_good_after_a_first_save_cut_short_starts_afresh_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = checkpoint_folder(tmp_path, 200, 1)
    torn.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert newest_good(tmp_path) is None
    assert str(torn) in caplog.text


def test_save_of_the_same_step_by_a_newer_attempt_leaves_the_older_one_alone(tmp_path: Path) -> None:
    old = save(tmp_path, step=200, attempt=1)
    flip(path_of(old) / RANK_1, 500)
    new = save(tmp_path, step=200, attempt=2)
    assert path_of(new).name == "step-00000200-attempt-0002"
    choice = newest_good(tmp_path)
    assert choice is not None
    assert (choice.address, choice.skipped) == (new.address, ())


def test_newest_good_prefers_the_newer_attempt_to_the_higher_step(tmp_path: Path) -> None:
    save(tmp_path, step=400, attempt=1)
    save(tmp_path, step=300, attempt=2)
    choice = newest_good(tmp_path)
    assert choice is not None
    assert (choice.manifest.header.attempt, choice.manifest.step) == (2, 300)


def test_save_twice_in_one_attempt_is_good(tmp_path: Path) -> None:
    save(tmp_path, step=200)
    result = save(tmp_path, step=200)
    assert verify_checkpoint(result.address) == []
    assert names(tmp_path) == ["step-00000200"]


def test_save_on_another_rank_leaves_the_manifest_to_rank_0(tmp_path: Path) -> None:
    result = save_checkpoint(task(tmp_path, rank=1))
    assert sorted(path.name for path in path_of(result).iterdir()) == [MARK_1, RANK_1]


def test_save_with_an_unowned_element_is_refused_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    first = task(tmp_path)
    save_checkpoint(SaveTask(tmp_path, first.header, snapshots(state(), 2)[0], rank=1))
    with pytest.raises(TrainError, match=r"embed\.weight: elements"):
        save_checkpoint(first)
    assert list_checkpoints(tmp_path) == []


def test_prune_keeps_the_newest_good_ones(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400, 500):
        save(tmp_path, step=step, keep=3)
    assert names(tmp_path) == ["step-00000300", "step-00000400", "step-00000500"]


def test_prune_never_removes_the_last_two_good_ones(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        save(tmp_path, step=step, keep=1)
    assert names(tmp_path) == ["step-00000200", "step-00000300"]


def test_prune_does_not_count_bad_ones(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        save(tmp_path, step=step, keep=9)
    (checkpoint_folder(tmp_path, 200, 1) / RANK_1).unlink()
    (checkpoint_folder(tmp_path, 300, 1) / MANIFEST_NAME).write_text("{")
    assert prune(tmp_path, keep=2, attempt=1) == []
    save(tmp_path, step=400, keep=2)
    assert names(tmp_path) == ["step-00000100", "step-00000200", "step-00000300", "step-00000400"]
    save(tmp_path, step=500, keep=2)
    assert names(tmp_path) == ["step-00000400", "step-00000500"]


def test_prune_removes_torn_folders_of_older_attempts_only(tmp_path: Path) -> None:
    for step, attempt in ((50, 1), (150, 2), (900, 3)):
        checkpoint_folder(tmp_path, step, attempt).mkdir(parents=True)
    save(tmp_path, step=200, attempt=2)
    assert names(tmp_path) == [
        "step-00000150-attempt-0002",
        "step-00000200-attempt-0002",
        "step-00000900-attempt-0003",
    ]


def test_agree_on_checkpoint_gives_every_rank_rank_0s_choice(tmp_path: Path) -> None:
    save(tmp_path)
    sent: list[Any] = []
    first = agree_on_checkpoint(tmp_path, rank=0, broadcast=keep_and_send(sent))
    other = agree_on_checkpoint(tmp_path / "elsewhere", rank=1, broadcast=lambda value: sent[0])
    assert isinstance(first, Choice)
    assert other == first


def test_agree_on_checkpoint_raises_rank_0s_error_on_every_rank(tmp_path: Path) -> None:
    flip(path_of(save(tmp_path)) / RANK_1, 500)
    sent: list[Any] = []
    with pytest.raises(TrainError, match=RANK_1):
        agree_on_checkpoint(tmp_path, rank=0, broadcast=keep_and_send(sent))
    with pytest.raises(TrainError, match=RANK_1):
        agree_on_checkpoint(tmp_path, rank=1, broadcast=lambda value: sent[0])


def test_list_checkpoints_is_in_order_of_time_and_shows_bad_manifests(tmp_path: Path) -> None:
    save(tmp_path, step=200, attempt=2)
    save(tmp_path, step=400, attempt=1)
    (tmp_path / "checkpoints/step-00000400" / MANIFEST_NAME).write_text("{")
    (tmp_path / "checkpoints/notes.txt").write_text("mine")
    entries = list_checkpoints(tmp_path)
    assert [(entry.attempt, entry.step) for entry in entries] == [(1, 400), (2, 200)]
    assert entries[0].manifest is None
    assert "step-00000400/manifest.json" in (entries[0].problem or "")
    assert entries[1].manifest is not None
    assert entries[1].problem is None


def test_inspect_checkpoint_is_plain_json(tmp_path: Path) -> None:
    result = save(tmp_path)
    found = json.loads(json.dumps(inspect_checkpoint(result.address)))
    assert (found["step"], found["tokens"], found["world_size"], found["zero_stage"]) == (200, 12800, 2, 2)
    assert found["bytes"] == result.bytes == sum(p.stat().st_size for p in path_of(result).glob("*.safetensors"))
    assert found["parameters"]["embed.weight"] == [7, 5]
    assert found["optimizer_steps"] == [17.0]
