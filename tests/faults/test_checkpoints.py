"""What becomes of a run's checkpoints when ranks, disks and stores fail, and when it goes on elsewhere."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_shards.prepare import prepare
from monitoring.journal import attempt_path
from tests.data_shards.s3 import S3Server, s3_server  # noqa: F401  a fixture
from tests.end_to_end.headrace import events, run_file, steps, wait_until
from tests.trainer.checkpoint_world import checkpoint_folder, path_of, save, task
from tests.trainer.checkpointing import Saving
from tests.trainer.flaky_s3 import FlakyS3, flaky_s3
from tests.trainer.save_world import LONG_STALL_SECONDS, STALL_SECONDS
from tests.trainer.worlds import run_jobs
from trainer.attempts import take_attempt
from trainer.checkpoint import save as saving_module
from trainer.checkpoint import storage as storage_module
from trainer.checkpoint.fence import note_resumed
from trainer.checkpoint.manifest import MANIFEST_NAME, parse
from trainer.checkpoint.save import SaveTask, save_checkpoint
from trainer.checkpoint.store import list_checkpoints, newest_good, verify_checkpoint
from trainer.config import load_run_file
from trainer.errors import TrainError
from trainer.launch import open_launch

pytestmark = [pytest.mark.faults, pytest.mark.slow]

FORK = multiprocessing.get_context("fork")
DEADLINE_SECONDS = 30.0
KILLED = -signal.SIGKILL


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(phase: str) -> Callable[[int, str], None]:
    return lambda step, found: die() if found == phase else None


def die_before_manifest() -> None:
    saving_module.write_manifest = die  # type: ignore[assignment]


def die_in_manifest() -> None:
    """The manifest is written and synced under its temporary name, and not renamed."""
    real = storage_module.write_durably

    def write(path: Path, chunks: Any, before_rename: Any) -> Any:
        return real(path, chunks, die if path.name == MANIFEST_NAME else before_rename)

    storage_module.write_durably = write


def start_rank(part: SaveTask, prepare_fault: Callable[[], None] = lambda: None) -> Any:
    def run() -> None:
        prepare_fault()
        save_checkpoint(part)

    process = FORK.Process(target=run, daemon=True)
    process.start()
    return process


def end(process: Any) -> int:
    process.join(DEADLINE_SECONDS)
    assert process.exitcode is not None
    return int(process.exitcode)


def newest_step(out_dir: Path) -> int:
    """Step of the checkpoint that would be loaded; every byte of it is verified."""
    choice = newest_good(out_dir)
    assert choice is not None
    return choice.manifest.step


POINTS: list[tuple[int, str, int]] = [
    *[(rank, phase, 100) for rank in (0, 1) for phase in ("mid-save", "before-rename")],
    (0, "before the manifest", 100),
    (0, "in the manifest", 100),
    (0, "after-save", 200),
    (1, "after-save", 200),
]


@pytest.mark.parametrize(("rank", "point", "expected"), POINTS)
def test_checkpoint_kill_in_mid_publish_uses_the_one_before(
    tmp_path: Path, rank: int, point: str, expected: int
) -> None:
    """Two ranks save in processes of their own; one kills itself, the other is killed as a supervisor would."""
    save(tmp_path, step=100)
    faults = {"before the manifest": die_before_manifest, "in the manifest": die_in_manifest}
    victim = start_rank(task(tmp_path, rank, step=200, at=die_in(point)), faults.get(point, lambda: None))
    other = start_rank(task(tmp_path, 1 - rank, step=200))
    assert end(victim) == KILLED
    if point == "after-save":
        assert end(other) == 0
    other.kill()
    assert newest_step(tmp_path) == expected
    save(tmp_path, step=200, attempt=2)
    assert newest_step(tmp_path) == 200
    assert not list((tmp_path / "checkpoints").rglob(".*"))  # retention has removed what was half written


def test_checkpoint_kill_at_any_time_leaves_a_whole_one(tmp_path: Path) -> None:
    save(tmp_path, step=100)
    delays = random.Random(6)
    outcomes = set()
    for attempt in range(2, 22):
        ranks = [start_rank(task(tmp_path, rank, step=200, attempt=attempt, keep=30)) for rank in (0, 1)]
        time.sleep(delays.uniform(0.0, 0.06))
        for process in ranks:
            process.kill()
        for process in ranks:
            assert end(process) in (0, KILLED)
        folder = checkpoint_folder(tmp_path, 200, attempt)
        is_there = (folder / MANIFEST_NAME).exists()
        assert not is_there or verify_checkpoint(folder) == []
        assert newest_step(tmp_path) in (100, 200)
        outcomes.add(is_there)
    assert False in outcomes


def test_checkpoint_of_an_old_attempt_that_comes_back_does_not_count(tmp_path: Path) -> None:
    """Stopped after its look for a newer attempt and before its manifest; woken up when the newer one has saved."""
    first = take_attempt(tmp_path)
    save(tmp_path, step=100, attempt=first)

    def stop_before_manifest() -> None:
        real = saving_module.write_manifest

        def write(*arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGSTOP)
            return real(*arguments)

        saving_module.write_manifest = write

    save_checkpoint(task(tmp_path, 1, step=200, attempt=first))
    old = start_rank(task(tmp_path, 0, step=200, attempt=first), stop_before_manifest)
    state_file = Path(f"/proc/{old.pid}/stat")
    wait_until(lambda: state_file.read_text().rpartition(")")[2].split()[0] == "T", "the stop", DEADLINE_SECONDS)
    second = take_attempt(tmp_path)
    note_resumed(tmp_path, second, 100)
    save(tmp_path, step=150, attempt=second)
    os.kill(old.pid, signal.SIGCONT)
    assert end(old) == 1  # fenced off before it would have removed old checkpoints
    assert (checkpoint_folder(tmp_path, 200, first) / MANIFEST_NAME).exists()
    assert newest_step(tmp_path) == 150
    assert [(entry.step, entry.is_believed) for entry in list_checkpoints(tmp_path)] == [
        (100, True),
        (200, False),
        (150, True),
    ]


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("damage")
    save(out_dir, step=100)
    save(out_dir, step=200)
    return out_dir


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from([0, 1, 2]), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_checkpoint_damaged_at_any_byte_is_refused_by_name_and_the_one_before_is_used(
    saved_twice: Path, file: int, at: float, bit: int, cut: bool
) -> None:
    folder = checkpoint_folder(saved_twice, 200, 1)
    name = ["rank-00000-of-00002.safetensors", "rank-00001-of-00002.safetensors", MANIFEST_NAME][file]
    path = folder / name
    whole = path.read_bytes()
    position = int(at * len(whole))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    path.write_bytes(whole[:position] if cut else damaged)
    try:
        choice = newest_good(saved_twice)
        assert choice is not None
        if choice.manifest.step == 200:  # a space between the manifest's fields that became another one
            assert name == MANIFEST_NAME and parse(bytes(damaged), path) == parse(whole, path)
        else:
            assert choice.manifest.step == 100
            assert str(path) in choice.skipped[0][1]
    finally:
        path.write_bytes(whole)


def test_checkpoints_all_damaged_are_an_error_and_never_step_0(tmp_path: Path) -> None:
    for step, name in ((100, MANIFEST_NAME), (200, "rank-00001-of-00002.safetensors")):
        path = path_of(save(tmp_path, step=step)) / name
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainError, match=r"none of the 2 checkpoints is whole.*step-00000200/rank-00001-of-00002"):
        newest_good(tmp_path)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The jobs of `save_world`: the run's folder and rank 0's answer."""
    return run_two_ranks(tmp_path_factory.mktemp("two-ranks"), ["full_disk", "stalled"])


def run_two_ranks(folder: Path, names: list[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
    jobs = [{"world_size": 2, "job": name, "out_dir": str(folder / name)} for name in names]
    answers = run_jobs("tests.trainer.save_world", folder, jobs)
    return {name: (folder / name, answer) for name, answer in zip(names, answers, strict=True)}


def test_disk_full_on_one_rank_fails_the_save_on_all_and_leaves_old_checkpoints(
    two_ranks: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    out_dir, answer = two_ranks["full_disk"]
    told = [(event["event"], event["step"]) for event in answer["events"]]
    assert told == [("checkpoint", 10), ("checkpoint_failed", 20), ("checkpoint", 30), ("checkpoint_failed", 40)]
    assert answer["left"] == ["step-00000010"]
    assert "No space left on device" in answer["events"][1]["reason"]
    assert len(answer["errors"]) == 2
    for error in answer["errors"]:
        assert f"{out_dir}/checkpoints: the checkpoint of step 40 must be saved before the run ends" in error
        assert "No space left on device" in error
    assert [entry.step for entry in list_checkpoints(out_dir)] == [10, 30]
    assert newest_step(out_dir) == 30


def test_storage_that_stalls_makes_the_save_late_and_training_goes_on(
    two_ranks: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    check_late_save(*two_ranks["stalled"], STALL_SECONDS)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_storage_that_stalls_for_a_minute_makes_the_save_late_and_training_goes_on(tmp_path: Path) -> None:
    check_late_save(*run_two_ranks(tmp_path, ["stalled_for_a_minute"])["stalled_for_a_minute"], LONG_STALL_SECONDS)


def check_late_save(out_dir: Path, answer: dict[str, Any], stall_seconds: float) -> None:
    assert answer["stalled_seconds"] >= stall_seconds - 0.1
    assert answer["steps"] >= 20
    assert answer["longest_step_seconds"] < STALL_SECONDS / 2
    told = [(event["event"], event["step"]) for event in answer["events"]]
    assert told[:3] == [("checkpoint", 10), ("checkpoint_late", 20), ("checkpoint", 20)]
    assert len([name for name, _ in told if name == "checkpoint_late"]) == 1
    assert told[3][0] == "checkpoint" and told[3][1] > 20  # the one that was due meanwhile
    assert newest_step(out_dir) == told[3][1]


@pytest.fixture
def store(s3_server: S3Server) -> Iterator[tuple[FlakyS3, str]]:  # noqa: F811
    """An S3 server that can be switched off, and a bucket."""
    address = s3_server.new_bucket()
    with flaky_s3(s3_server) as flaky:
        yield flaky, f"{address}/run"


@pytest.fixture
def _group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group_of_one")
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_s3_that_answers_503_makes_the_save_late_and_training_goes_on(
    tmp_path: Path, store: tuple[FlakyS3, str], seconds: float
) -> None:
    flaky, address = store
    with Saving(tmp_path, dir=address, interval=10) as rank:
        rank.save(10, wait=True)
        flaky.is_down.set()
        began = time.monotonic()
        rank.save(20)
        step = 20
        while time.monotonic() - began < seconds or flaky.refused < 3:
            assert time.monotonic() - began < seconds + DEADLINE_SECONDS
            step += 1
            rank.engine.step()
            rank.checkpointer.poll()
            if rank.checkpointer.due(step):
                rank.save(step)
            assert rank.checkpointer.is_saving(20)
        flaky.is_down.clear()
        rank.checkpointer.finish()
        assert rank.checkpointer.due(step + 1)
        rank.save(step + 1, wait=True)
    assert step > 120
    assert [(event["event"], event["step"]) for event in rank.events] == [
        ("checkpoint", 10),
        ("checkpoint_late", 20),
        ("checkpoint", 20),
        ("checkpoint", step + 1),
    ]
    threading.Timer(1.0, flaky.is_down.clear).start()
    flaky.is_down.set()
    choice = newest_good(tmp_path, address)
    assert choice is not None
    assert (choice.manifest.step, choice.skipped) == (step + 1, ())


STEPS = 16
LEGS: dict[str, list[tuple[int, int]]] = {  # (world size, ZeRO stage) of each leg
    "undisturbed": [(2, 2)],
    "worlds": [(2, 2), (1, 2), (3, 2), (2, 2)],
    "stages": [(2, 2), (2, 0), (2, 3), (2, 1)],
    "store": [(2, 2), (2, 2)],  # its checkpoints lie on an S3 server
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Path:  # noqa: F811
    """Runs of the same file, stopped after every leg and gone on with, at another world size or stage if it says so."""
    folder, address = tmp_path_factory.mktemp("resumed"), s3_server.new_bucket()
    model = {"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32, "dropout": 0.0}
    jobs = []
    for name, legs in LEGS.items():
        place = {"dir": f"{address}/run"} if name == "store" else {}
        file = run_file(folder, name, model=model, checkpoint={"interval": 50, **place}, eval__interval=100)
        for attempt, (world_size, stage) in enumerate(legs, start=1):
            config = load_run_file(file, [f"train.zero.stage={stage}", "train.micro_batch_size=auto"])
            dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
            spec = open_launch(config, dataset, False).run_spec({})
            journal = str(attempt_path(Path(config.out_dir), attempt))
            spec |= {"attempt": attempt, "journal_path": journal}
            jobs.append({"world_size": world_size, "steps": STEPS // len(legs), "spec": spec})
    run_jobs("tests.trainer.resume_world", folder, jobs)
    return folder / "runs"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["worlds", "stages", "store"])
def test_resume_at_another_world_size_stage_or_store_sees_the_same_sequences_and_losses(
    resumed: Path, name: str
) -> None:
    expected, found = steps(resumed / "undisturbed"), steps(resumed / name)
    leg = STEPS // len(LEGS[name])
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    assert [event["resumed_step"] for event in events(resumed / name, "start")] == list(range(0, STEPS, leg))
    assert [record["sequence_hash"] for record in found] == [record["sequence_hash"] for record in expected]
    assert [record["tokens"] for record in found] == [record["tokens"] for record in expected]
    assert found[leg]["loss"] == pytest.approx(expected[leg]["loss"], rel=1e-6, abs=0)
    assert [record["loss"] for record in found] == pytest.approx([record["loss"] for record in expected], rel=1e-4)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_resume_from_an_object_store_is_exact(resumed: Path) -> None:
    assert [r["loss_hex"] for r in steps(resumed / "store")] == [r["loss_hex"] for r in steps(resumed / "undisturbed")]
    assert not (resumed / "store/checkpoints").exists()
    assert events(resumed / "store", "start")[1]["restored_from"].startswith("s3://")
