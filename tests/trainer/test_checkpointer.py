"""Saves in the background, as the loop sees them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.trainer.checkpointing import DEADLINE_SECONDS, Saving
from trainer import background_save
from trainer.attempts import take_attempt
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.storage import LocalStorage
from trainer.checkpoint.store import list_checkpoints, newest_good, verify_checkpoint
from trainer.errors import FencedError, SaveFailedError


@pytest.fixture(scope="module", autouse=True)
def _group_of_one() -> Iterator[None]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Gate:
    """Holds every write of a checkpoint's file until it is opened; while `refusal` is set, the writes fail with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.refusal: OSError | None = None
        real = LocalStorage.write

        def write(storage: LocalStorage, name: str, *rest: Any) -> Any:
            if name.endswith(".safetensors"):
                assert self.is_open.wait(DEADLINE_SECONDS)
                if self.refusal is not None:
                    raise self.refusal
            return real(storage, name, *rest)

        monkeypatch.setattr(LocalStorage, "write", write)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def saved_steps(out_dir: Path) -> list[int]:
    return [entry.step for entry in list_checkpoints(out_dir) if not verify_checkpoint(entry.address)]


def test_save_lets_training_go_on_and_keeps_the_values_of_its_step(tmp_path: Path, gate: Gate) -> None:
    with Saving(tmp_path) as rank:
        before = {part.name: part.master.clone() for part in rank.engine.part.fragments}
        rank.save(10)
        rank.checkpointer.hold_still()
        rank.engine.step()
        rank.checkpointer.poll()
        assert (rank.events, list_checkpoints(tmp_path)) == ([], [])
        gate.is_open.set()
        rank.poll_until(lambda: rank.events)
        [event] = rank.events
    assert (event["event"], event["step"]) == ("checkpoint", 10)
    assert 0 < event["stall_seconds"] < event["seconds"]
    assert event["seconds"] == event["stall_seconds"] + event["written_seconds"]
    choice = newest_good(tmp_path)
    assert choice is not None
    assert (choice.address, choice.manifest.step, choice.manifest.bytes) == (event["path"], 10, event["bytes"])
    with CheckpointReader(choice.address, choice.manifest) as reader:
        assert all(torch.equal(reader.full(name).view(-1), value) for name, value in before.items())


def test_save_that_is_due_while_one_is_under_way_is_put_off_and_said_once(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Saving(tmp_path, interval=10) as rank:
        rank.save(10)
        for step in (20, 30):
            assert rank.checkpointer.due(step)
            rank.save(step)
            rank.checkpointer.poll()
        assert rank.events == []  # a save that takes less than a second longer than its interval is no news
        monkeypatch.setattr(background_save, "LATE_WHEN_DUE_SECONDS", 0.0)
        rank.checkpointer.poll()
        assert not rank.checkpointer.due(31)
        gate.is_open.set()
        rank.poll_until(lambda: rank.told("checkpoint"))
        assert rank.checkpointer.due(32)
        rank.save(32)
        assert not rank.checkpointer.due(33)
        rank.checkpointer.finish()
    assert [(event["event"], event["step"]) for event in rank.events] == [
        ("checkpoint_late", 10),
        ("checkpoint", 10),
        ("checkpoint", 32),
    ]
    assert saved_steps(tmp_path) == [10, 32]


def test_save_that_takes_long_is_said_once(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_save, "LATE_SECONDS", 0.0)
    with Saving(tmp_path) as rank:
        rank.save(10)
        rank.poll_until(lambda: rank.events)
        for _ in range(3):
            rank.checkpointer.poll()
        assert [event["event"] for event in rank.events] == ["checkpoint_late"]
        gate.is_open.set()
        rank.checkpointer.finish()
    assert [event["event"] for event in rank.events] == ["checkpoint_late", "checkpoint"]


def test_save_by_time_is_due_again_after_the_interval_only(tmp_path: Path) -> None:
    with Saving(tmp_path, interval="1h") as rank:
        assert not rank.checkpointer.time_is_up()
        rank.checkpointer._saved_time -= 3601
        assert rank.checkpointer.time_is_up()
        rank.save(7)
        assert not rank.checkpointer.time_is_up()
        rank.checkpointer.finish()
    assert saved_steps(tmp_path) == [7]


def test_save_with_wait_waits_for_the_one_under_way_and_saves_no_step_twice(tmp_path: Path) -> None:
    with Saving(tmp_path) as rank:
        rank.save(10)
        rank.save(10, wait=True)
        rank.save(10, wait=True)
        rank.save(11)
        rank.save(12, wait=True)
    assert [event["step"] for event in rank.told("checkpoint")] == [10, 11, 12]
    assert saved_steps(tmp_path) == [10, 11, 12]


def test_save_on_a_full_disk_is_said_once_leaves_nothing_and_the_next_one_tries_again(
    tmp_path: Path, gate: Gate
) -> None:
    gate.is_open.set()
    with Saving(tmp_path) as rank:
        rank.save(10, wait=True)
        gate.refusal = OSError(errno.ENOSPC, "No space left on device", "/somewhere")
        for step in (20, 30):
            rank.save(step)
            rank.checkpointer.finish()
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
        gate.refusal = None
        rank.save(40, wait=True)
    assert [(event["event"], event["step"]) for event in rank.events] == [
        ("checkpoint", 10),
        ("checkpoint_failed", 20),
        ("checkpoint", 40),
    ]
    assert rank.told("checkpoint_failed")[0]["reason"] == "No space left on device (/somewhere)"
    assert saved_steps(tmp_path) == [10, 40]


def test_last_save_that_fails_is_an_error_that_names_folder_and_reason(tmp_path: Path, gate: Gate) -> None:
    gate.is_open.set()
    gate.refusal = OSError(errno.EROFS, "Read-only file system", "/somewhere")
    with Saving(tmp_path) as rank, pytest.raises(SaveFailedError) as raised:
        rank.save(10, wait=True)
    assert f"{tmp_path}/checkpoints: the checkpoint of step 10 must be saved" in str(raised.value)
    assert "Read-only file system (/somewhere)" in str(raised.value)


def test_save_of_an_attempt_after_a_newer_one_began_is_fenced_and_publishes_nothing(tmp_path: Path, gate: Gate) -> None:
    attempt = take_attempt(tmp_path)
    with Saving(tmp_path, attempt) as rank:
        rank.save(10)
        take_attempt(tmp_path)
        gate.is_open.set()
        with pytest.raises(FencedError, match="attempt 1 must write nothing more, since attempt 2 has begun"):
            rank.checkpointer.finish()
    assert rank.events == [{"event": "fenced", "attempt": 1, "newest": 2}]
    assert list_checkpoints(tmp_path) == []


def broken(step: int, phase: str) -> None:
    raise ZeroDivisionError(phase)


@pytest.mark.parametrize("phase", ["mid-save", "before-rename", "after-save"])
def test_save_with_a_fault_of_the_program_ends_the_rank(tmp_path: Path, phase: str) -> None:
    def at(step: int, found: str) -> None:
        if found == phase:
            broken(step, found)

    with Saving(tmp_path) as rank:
        rank.checkpointer._at = at
        with pytest.raises(SaveFailedError, match=rf"rank 0 could not save: ZeroDivisionError\('{phase}'\)") as raised:
            rank.save(10, wait=True)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_restore_notes_the_step_it_goes_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[Callable[..., Any]] = []
    monkeypatch.setattr("trainer.checkpointer.restore", lambda engine, reader, stage: restored.append(reader))
    with Saving(tmp_path) as first:
        assert first.checkpointer.restore() is None
        first.save(10, wait=True)
    with Saving(tmp_path, attempt=2) as second:
        found = second.checkpointer.restore()
    assert found is not None
    assert (found[0].step, found[0].tokens, found[0].loader.consumed) == (10, 640, 80)
    assert len(restored) == 1
    notes = {path.name: path.read_text() for path in (tmp_path / "attempts").iterdir()}
    assert notes == {"0001.resumed.json": '{"step": 0}', "0002.resumed.json": '{"step": 10}'}
