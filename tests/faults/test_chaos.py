"""`headrace chaos` as a user runs it: faults on a cluster of several nodes, and the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.headrace import events, headrace, run_file

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.long]

PLAN = {
    "nodes": 3,
    "faults": [
        {"kind": "kill_rank", "rank": 1, "at_step": 8},
        {"kind": "kill_node", "rank": 0, "at_step": 20, "seconds": 2},
        {"kind": "flip_checkpoint", "at_step": 50, "byte": 4321},
        {"kind": "kill_driver", "at_step": 50},
    ],
}


def tiny(folder: Path, name: str, steps: int) -> Path:
    """A run file whose ranks count as hung soon, with checkpoints at steps 15, 30 and on.

    A step takes so long that two faults of one step are done well before the next checkpoint.
    """
    cluster = {"workers": 2, "hang_seconds": 5.0}
    length = {"max_steps": steps, "global_batch_size": 16, "micro_batch_size": 1, "lr": 3e-3}
    return run_file(folder, name, train=length, checkpoint={"interval": 15}, cluster=cluster)


def promises(answer: dict[str, Any]) -> dict[str, list[str]]:
    return {promise["name"]: promise["problems"] for promise in answer["promises"]}


@pytest.mark.timeout(800)
def test_chaos_of_a_plan_holds_every_promise_and_a_broken_one_is_told(tmp_path: Path) -> None:
    file = tiny(tmp_path, "planned", steps=75)
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    done = headrace("chaos", file, "--plan", plan, "--json", deadline_seconds=500)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["held"]
    assert [fault["fault"]["kind"] for fault in answer["faults"]] == [fault["kind"] for fault in PLAN["faults"]]  # type: ignore[index]
    assert not any(promises(answer).values())
    kill, node, flip, driver = answer["faults"]
    assert kill["detected_seconds"] is not None and kill["new_step_seconds"] < 30
    assert node["gone_seconds"] < 3 and node["step"] >= 20
    assert flip["path"].startswith(answer["folder"])
    assert driver["exit_status"] == -9 and driver["gone_seconds"] < 5
    # The flipped checkpoint, the newest then, was passed over for the one before it.
    assert "step-00000045" in flip["path"]
    [start] = events(Path(answer["folder"]) / "rough", "start")[-1:]
    assert "checkpoints/step-00000030" in start["restored_from"]

    # A run at another learning rate is not that one, and the verdict says so.
    other = tiny(tmp_path, "other", steps=75)
    other.write_text(other.read_text().replace("lr: 0.003", "lr: 0.002"))
    short = {"faults": [{"kind": "kill_rank", "rank": 0, "at_step": 8}]}
    plan.write_text(yaml.safe_dump(short))
    baseline = Path(answer["folder"]) / "calm"
    done = headrace("chaos", other, "--plan", plan, "--baseline", baseline, "--json", deadline_seconds=250)
    assert done.returncode == 1, done.stderr
    broken = {name for name, problems in promises(json.loads(done.stdout)).items() if problems}
    assert broken == {"same losses", "same final weights"}


@pytest.mark.timeout(1500)
def test_chaos_soak_of_twenty_random_faults_holds_every_promise(tmp_path: Path) -> None:
    file = tiny(tmp_path, "soak", steps=300)
    words = ("--seed", "20", "--faults", "20", "--json", "--save-plan", tmp_path / "plan.yaml")
    done = headrace("chaos", file, *words, deadline_seconds=1400)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["held"]
    assert len(answer["faults"]) == 20
    assert not any(promises(answer).values())
    assert 0 < answer["effective_time_ratio"]["disturbed"] < answer["effective_time_ratio"]["undisturbed"]
