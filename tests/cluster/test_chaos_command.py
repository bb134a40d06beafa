"""What `headrace chaos` refuses, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli import main
from tests.end_to_end.headrace import run_file


@pytest.mark.parametrize(
    ("plan", "words", "message"),
    [
        (None, ["--seed", "1", "--plan", "PLAN"], "--plan and --seed: give one of them"),
        (None, ["--plan", "PLAN"], "plan.yaml: must be a YAML file that can be read"),
        ("faults: [{kind: kill_rnak, at_step: 3}]", ["--plan", "PLAN"], "plan.yaml: faults.0.kind"),
        ("faults: [{kind: kill_driver, at_step: 60}]", ["--plan", "PLAN"], "faults.0.at_step: must be below"),
        ("faults: [{kind: kill_rank, rank: 2, at_step: 6}]", ["--plan", "PLAN"], "faults.0.rank: must be below"),
        (None, ["--seed", "1", "--faults", "40"], "--faults 40: a run of 60 steps has room for 1 to 28 faults"),
        (None, ["--nodes", "0"], "--nodes 0: must be at least 1"),
        (None, ["--baseline", "absent"], "absent"),
        (None, ["--set", "train.lr=-1"], "train.lr: must be greater than 0"),
    ],
)
def test_chaos_wrong_is_refused_before_anything_is_started(
    plan: str | None, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, path = run_file(tmp_path, "tiny"), tmp_path / "plan.yaml"
    if plan is not None:
        path.write_text(plan)
    assert main(["chaos", str(file), *(word.replace("PLAN", str(path)) for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs/tiny-chaos").exists()
