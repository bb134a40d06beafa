"""What train.compile asks of a machine, and that compiled steps are the eager ones."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.trainer.worlds import run_jobs
from trainer.compiler import check_compiler
from trainer.errors import TrainError
from trainer.settings import TrainSettings


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("device", "name", "variable"), [("cpu", "g++", "CXX"), ("cuda", "gcc", "CC")])
def test_compiler_on_path_or_named_is_enough(tmp_path: Path, device: str, name: str, variable: str) -> None:
    with pytest.raises(TrainError, match=rf"^train.compile: .*found no g.*apt-get install g\+\+.*{variable}"):
        check_compiler(device, {"PATH": str(tmp_path)})
    other = program(tmp_path, "mine")
    check_compiler(device, {"PATH": "", variable: str(other)})
    program(tmp_path, name)
    check_compiler(device, {"PATH": str(tmp_path)})
    with pytest.raises(TrainError, match="found no gone"):
        check_compiler(device, {"PATH": str(tmp_path), variable: "gone"})


def test_compiler_without_pythons_headers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "g++")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(TrainError, match=r"^train.compile: .*found no .*Python.h.*python3-dev"):
        check_compiler("cpu", {"PATH": str(tmp_path)})


def test_compile_at_zero_stage_3_is_refused() -> None:
    train = {"max_steps": 1, "global_batch_size": 1, "lr": 0.1, "compile": True}
    assert TrainSettings.model_validate({**train, "zero": {"stage": 2}}).compile
    with pytest.raises(ValidationError, match=r"compile: true needs zero\.stage 0, 1 or 2"):
        TrainSettings.model_validate({**train, "zero": {"stage": 3}})


@pytest.fixture
def trained(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Two ranks, eager and compiled, at a stage."""
    case = {"stage": request.param, "checkpointing": "none", "precision": "fp32"}
    cases = {"eager": case, "compiled": {**case, "train": {"compile": True}}}
    [answer] = run_jobs("tests.trainer.packed_world", tmp_path, [{"world_size": 2, "cases": cases}])
    return answer


@pytest.mark.slow
@pytest.mark.long  # a minute of compilation each
@pytest.mark.timeout(130)
@pytest.mark.parametrize("trained", [0, 2], indirect=True)
def test_compiled_steps_give_the_eager_losses(trained: dict[str, Any]) -> None:
    """Other orders of the same sums: 1e-5 relative, over eight steps and the held-out loss after them."""
    eager, compiled = trained["eager"], trained["compiled"]
    assert compiled["losses"] == pytest.approx(eager["losses"], rel=1e-5)
    assert compiled["norms"] == pytest.approx(eager["norms"], rel=1e-3)
    assert compiled["held_out"] == pytest.approx(eager["held_out"], rel=1e-5)
    assert compiled["losses"] != eager["losses"]  # else nothing was compiled
