"""The main job as a user runs it: real Ray, DeepSpeed and MLflow, on a tiny model, undisturbed and disturbed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.headrace import (
    environment,
    events,
    headrace,
    newest_step,
    pids_titled,
    run_file,
    started,
    steps,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's runs and their shared dataset lie."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def calm(folder: Path) -> tuple[Path, str]:
    """The folder of an undisturbed run, and what the command printed."""
    done = headrace("run", run_file(folder, "calm"))
    assert done.returncode == 0, done.stderr
    return folder / "runs/calm", done.stdout


def first_by_step(out_dir: Path, field: str) -> dict[int, Any]:
    values: dict[int, Any] = {}
    for record in steps(out_dir):
        values.setdefault(record["step"], record[field])
    return values


def final_hashes(out_dir: Path) -> list[str]:
    """Digest of each rank's file in the last step's checkpoint: weights and moments, bit for bit."""
    [manifest] = (out_dir / "checkpoints").glob(f"step-{STEPS:08d}*/manifest.json")
    return [file["digest"] for file in json.loads(manifest.read_text())["files"]]


def stored_metrics(database: Path, run_name: str) -> list[tuple[str, int]]:
    """Every (metric, step) that MLflow's own tables hold for a run."""
    query = (
        "select m.key, m.step from metrics m join tags t on t.run_uuid = m.run_uuid "
        "where t.key = 'mlflow.runName' and t.value = ?"
    )
    with sqlite3.connect(database) as connection:
        return list(connection.execute(query, (run_name,)))


def test_run_undisturbed_trains_every_step_and_reports(calm: tuple[Path, str]) -> None:
    out_dir, printed = calm
    assert [record["step"] for record in steps(out_dir)] == list(range(1, STEPS + 1))
    final = events(out_dir, "eval")[-1]
    assert final["final"]
    assert final["val_loss"] < steps(out_dir)[0]["loss"] - 0.5
    assert f"validation loss {final['val_loss']:.3f}" in printed
    assert f"unigram model of the same tokens {final['unigram_loss']:.3f}" in printed
    assert "the river" in printed
    assert "next: " in printed and " generate " in printed
    for place in (out_dir, out_dir.parent.parent / "data", out_dir / "model"):
        assert str(place) in printed


def test_run_undisturbed_leaves_a_model_that_transformers_loads(calm: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(calm[0] / "model")
    tokenizer = AutoTokenizer.from_pretrained(calm[0] / "model")
    assert model.config.n_layer == 2
    assert tokenizer.decode(tokenizer("the mill").input_ids) == "the mill"


def test_run_undisturbed_is_in_mlflow_once_per_step(calm: tuple[Path, str]) -> None:
    points = stored_metrics(calm[0].parent / "mlflow.db", "calm")
    assert len(points) == len(set(points))
    for metric in ("loss", "lr", "grad_norm", "tokens_per_second", "mfu", "data_wait_seconds", "sequence_hash"):
        assert sorted(step for key, step in points if key == metric) == list(range(1, STEPS + 1))
    assert [step for key, step in points if key == "val_loss"] == [20, 40, 60]


def test_run_again_when_finished_says_so_and_changes_nothing(calm: tuple[Path, str], folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (calm[0] / "checkpoints").rglob("*")}
    done = headrace("train", folder / "calm.yaml")
    assert done.returncode == 0, done.stderr
    assert "calm is finished: 60 steps" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (calm[0] / "checkpoints").rglob("*")} == before


@pytest.mark.faults
def test_run_killed_stopped_and_resumed_is_exactly_the_undisturbed_one(calm: tuple[Path, str], folder: Path) -> None:
    """A rank is killed, then a supervisor, then the driver is asked to stop; the same command goes on each time."""
    checkpoint = {"interval": 5, "snapshot_interval": 1}  # so that a snapshot is never older than a checkpoint
    file, out_dir = run_file(folder, "rough", checkpoint=checkpoint), folder / "runs/rough"
    with started("train", file, log=folder / "rough.log") as driver:
        wait_until(lambda: newest_step(out_dir) >= 8, "step 8")
        [rank] = pids_titled("headrace: rank 1/2 of rough")
        os.kill(rank, signal.SIGKILL)
        wait_until(lambda: events(out_dir, "restart"), "a new attempt within the gang")
        wait_until(lambda: newest_step(out_dir) >= 20, "step 20")
        [supervisor] = wait_until(lambda: pids_titled("headrace: supervisor 1 of rough"), "the supervisor's title")
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: len(events(out_dir, "start")) == 3, "a new gang through Ray Train")
        wait_until(lambda: newest_step(out_dir) >= 32, "step 32")
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(timeout=60) == 3, (folder / "rough.log").read_text()
    assert events(out_dir, "end")[-1]["status"] == "stopped"
    done = headrace("run", file)
    assert done.returncode == 0, done.stderr

    for field in ("sequence_hash", "loss_hex", "grad_norm"):
        assert first_by_step(out_dir, field) == first_by_step(calm[0], field)
    assert final_hashes(out_dir) == final_hashes(calm[0])
    undisturbed = first_by_step(calm[0], "loss_hex")
    assert [record["loss_hex"] for record in steps(out_dir)] == [undisturbed[r["step"]] for r in steps(out_dir)]
    sources = [event["restored_from"] for event in events(out_dir, "start")]
    assert sources[:3] == ["nothing", "memory", "memory"]  # it outlives the supervisors too, but not the driver
    assert ["checkpoints/step-" in source for source in sources] == [False, False, False, True]
    [death, *_] = events(out_dir, "rank_dead")
    assert (death["rank"], death["signal"]) == (1, 9)
    assert events(out_dir, "restart")[0]["seconds"] < 10
    points = stored_metrics(folder / "runs/mlflow.db", "rough")
    assert sorted(step for key, step in points if key == "loss") == list(range(1, STEPS + 1))
    assert len(points) == len(set(points))


def test_compare_of_both_shows_same_data_and_equal_losses(calm: tuple[Path, str], folder: Path) -> None:
    done = headrace("compare", folder / "runs/calm", folder / "runs/rough", "--json")
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    assert len(compared["runs"]) == 2
    table = headrace("compare", folder / "runs/calm", folder / "runs/rough")
    assert table.returncode == 0
    assert "calm" in table.stdout and "rough" in table.stdout


def test_run_on_one_worker_sees_the_sequences_of_two(calm: tuple[Path, str], folder: Path) -> None:
    """Started where packages of the user's own have our names. That the losses agree too is shown in test_rank.py."""
    user = folder / "user"
    for name in ("model", "trainer"):
        (user / name).mkdir(parents=True)
        (user / name / "__init__.py").write_text("raise RuntimeError('this is the user's own')")
    file = run_file(folder, "one", train__max_steps=6, cluster__workers=1)
    script = Path(sys.executable).parent / "headrace"
    done = subprocess.run(
        [str(script), "train", str(file)], cwd=user, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    of_two = first_by_step(calm[0], "sequence_hash")
    assert first_by_step(folder / "runs/one", "sequence_hash") == {step: of_two[step] for step in range(1, 7)}


def test_generate_evaluate_checkpoint_and_data_commands_answer(calm: tuple[Path, str], folder: Path) -> None:
    out_dir = calm[0]
    generated = headrace("generate", out_dir, "--prompt", "the river", "--tokens", "5")
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("the river")
    scores = json.loads(headrace("evaluate", out_dir, "--max-tokens", "1024", "--json").stdout)
    assert scores["loss"] == pytest.approx(events(out_dir, "eval")[-1]["val_loss"], rel=1e-5)
    listed = json.loads(headrace("checkpoint", "list", out_dir, "--json").stdout)
    assert len(listed) == 3
    assert listed[-1]["step"] == STEPS
    assert headrace("checkpoint", "verify", out_dir).returncode == 0
    assert headrace("data", "verify", folder / "data").returncode == 0
    assert json.loads(headrace("data", "stats", folder / "data", "--json").stdout)
    assert headrace("data", "show", folder / "data", "0").stdout.strip()


def test_prepare_on_ray_of_a_bad_record_is_refused_with_file_and_line(calm: tuple[Path, str], folder: Path) -> None:
    """With a given tokenizer it is a Ray task that finds it."""
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    tokenizer = str(folder / "data/tokenizer.json")
    changes = {"data__sources": ["bad.jsonl"], "data__tokenizer": tokenizer, "data__dir": str(folder / "bad")}
    done = headrace("prepare", run_file(folder, "bad", **changes))
    assert done.returncode == 2, done.stderr
    assert "bad.jsonl:2: not JSON" in done.stderr
    assert "Traceback" not in done.stderr
