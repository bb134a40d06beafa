"""Real DeepSpeed engines: what one saves, any other stage and world size loads."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.engine_cases import STAGES, assert_same, contents, read_case, write_case
from tests.trainer.engine_world import Tiny
from tests.trainer.worlds import run_jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    """Two ranks save at every stage in fp32 and in bf16, one rank in fp32; then each stage's checkpoints are loaded by
    other stages and by other world sizes: 2 -> 1, 1 -> 2, 2 -> 2 and 2 -> 3."""

    def reads(source: int, world_size: int, shift: int, precision: str = "fp32") -> list[dict[str, Any]]:
        name = f"w{source}-s%d-{precision}"
        return [read_case(folder, name % ((s + shift) % 4), world_size, s, precision) for s in STAGES]

    pair = [write_case(folder, 2, stage, precision) for stage, precision in product(STAGES, ("fp32", "bf16"))]
    single = [write_case(folder, 1, stage, "fp32") for stage in STAGES]
    reads_of_pair = reads(1, 2, shift=1) + reads(2, 2, shift=3) + reads(2, 2, shift=1, precision="bf16")
    by_size = [(2, pair), (1, single + reads(2, 1, shift=2)), (2, reads_of_pair), (3, reads(2, 3, shift=0))]
    jobs = [{"world_size": world_size, "cases": cases} for world_size, cases in by_size]
    answers: dict[str, Any] = {}
    for answer in run_jobs("tests.trainer.engine_world", folder, jobs):
        answers |= answer
    return answers


@pytest.fixture(scope="module")
def reread(answers: dict[str, Any]) -> dict[str, Any]:
    """The answers of those that loaded what another wrote."""
    return {name: answer for name, answer in answers.items() if "-to-" in name}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("world_size", "precision"), [(1, "fp32"), (2, "fp32"), (2, "bf16")])
def test_restore_at_the_same_stage_goes_on_bit_for_bit(
    folder: Path, answers: dict[str, Any], world_size: int, stage: int, precision: str
) -> None:
    name = f"w{world_size}-s{stage}-{precision}"
    answer = answers[name]
    assert answer["resumed"] == answer["went_on"]
    assert len(set(answer["losses"] + answer["went_on"])) == 6
    assert_same(contents(folder / name / "resumed"), contents(folder / name / "went_on"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_snapshot_at_step_0_has_the_initial_weights_and_empty_moments(
    folder: Path, answers: dict[str, Any], stage: int, precision: str
) -> None:
    torch.manual_seed(1)
    model = Tiny()
    offset = model.offset.clone()  # DeepSpeed leaves buffers in fp32
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    expected = {"offset": offset, "frozen.weight": model.frozen.weight.detach().float()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected[f"{name} master"] = parameter.detach().float().view(-1)
            expected[f"{name} exp_avg"] = expected[f"{name} exp_avg_sq"] = torch.zeros(parameter.numel())
            expected[f"{name} step"] = torch.tensor(0.0)
    assert_same(contents(folder / f"w2-s{stage}-{precision}" / "start"), expected)


def test_restore_at_another_stage_or_world_size_holds_the_same_bits(folder: Path, reread: dict[str, Any]) -> None:
    for name in reread:
        assert_same(contents(folder / name), contents(folder / name.split("-to-")[0]))
    assert len(reread) == 20


def test_restore_at_another_stage_or_world_size_goes_on_with_the_same_losses(
    answers: dict[str, Any], reread: dict[str, Any]
) -> None:
    for name, answer in reread.items():
        if name.endswith("bf16"):
            continue
        expected = [float.fromhex(loss) for loss in answers[name.split("-to-")[0]]["went_on"][:2]]
        found = [float.fromhex(loss) for loss in answer["losses"]]
        assert found == pytest.approx(expected, rel=1e-6, abs=0), name
