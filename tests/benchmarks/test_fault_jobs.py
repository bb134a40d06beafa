"""Jobs are hit and looked at as they are, and nothing that they started is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.faults.arms import ARMS, HEADRACE, RAY_DEEPSPEED, TORCHRUN, Runner
from benchmarks.faults.jobs import Place, Tail
from benchmarks.faults.peers.training import Tokens
from benchmarks.faults.storm import cut
from tests.benchmarks.fake_launcher import SAVE_EVERY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.fault_job", str(tmp_path_factory.mktemp("job"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_kills_are_recovered_from_with_the_steps_since_the_last_save_run_again(seen: dict[str, Any]) -> None:
    assert seen["attempts"] == 3
    for kill in seen["kills"]:
        assert kill["replayed_steps"] == kill["completed"] % SAVE_EVERY
        assert 0 < kill["next_step_seconds"] <= kill["new_step_seconds"]


def test_job_that_is_over_has_left_no_process_not_even_in_another_session(seen: dict[str, Any]) -> None:
    assert len(set(seen["pids"])) == 3
    assert seen["left"] == []


def test_cut_shard_takes_the_second_half_of_one_of_the_files_that_the_arm_reads(seen: dict[str, Any]) -> None:
    assert seen["cut"] == "cut train-00001.npy"
    assert seen["sizes"] == [100, 50]


def test_job_that_ends_by_itself_is_told_with_what_it_said(seen: dict[str, Any]) -> None:
    assert "ended with status 1 before a process of rank 0" in seen["failure"]
    assert "no such peer" in seen["failure"]


def test_tail_gives_whole_new_lines_of_all_files_once(tmp_path: Path) -> None:
    tail = Tail(lambda: sorted(tmp_path.iterdir()))
    assert tail.lines() == []
    (tmp_path / "a").write_text("1\n2\n3")
    assert tail.lines() == ["1", "2"]
    (tmp_path / "a").write_text("1\n2\n3\n")
    (tmp_path / "b").write_text("4\n")
    assert tail.lines() == ["3", "4"]
    assert tail.lines() == []


@pytest.mark.filterwarnings("ignore")
def test_tokens_of_the_peers_leave_out_a_shard_that_was_cut_and_come_round(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"train-0000{number}.npy", np.arange(100 * number, 100 * number + 100, dtype=np.uint16))
    asked = {"arrays": str(tmp_path), "seq_len": 9, "batch": 4}
    whole = Tokens(asked).rows(0, 22)
    assert whole.shape == (22, 10)
    assert sorted(whole[:, 0].tolist()) == [*range(0, 91, 9), *range(100, 191, 9)]
    cut(tmp_path / "train-00000.npy")
    left = Tokens(asked)
    assert sorted(left.rows(0, 11)[:, 0].tolist()) == [*range(100, 191, 9)]
    assert left.rows(11, 1).tolist() == left.rows(0, 1).tolist()
    assert left.own_rows(asked, 2, 1, 2).tolist() == left.rows(6, 2).tolist()


def test_commands_give_all_arms_the_same_batch_model_and_interval(tmp_path: Path) -> None:
    place = Place(tmp_path / "headrace-run", tmp_path, tmp_path, tmp_path / "mlflow.db")
    (tmp_path / "dataset.json").write_text(json.dumps({"vocab_size": 1000}))
    commands = {arm: Runner("PYTHON", 10, 7.0).command(arm, place) for arm in ARMS}
    asked = [json.loads(command[-1]) for arm, command in commands.items() if arm != HEADRACE]
    assert asked[0] == asked[1] == asked[2]
    assert (asked[0]["batch"], asked[0]["save_every"], asked[0]["timeout_seconds"]) == (4, 10, 7.0)
    assert asked[0]["model"]["real_vocab_size"] == 1000
    assert {"checkpoint.interval=10", "name=headrace-run", "checkpoint.snapshot_interval=1"} <= set(commands[HEADRACE])
    assert "--shutdown-timeout=2" in commands[TORCHRUN]
    assert Path(commands[RAY_DEEPSPEED][1]).name == "ray_deepspeed.py"
