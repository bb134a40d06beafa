"""Muon's state in real DeepSpeed engines: what one saves, any other stage and world size loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.engine_cases import STAGES, assert_same, contents, read_case, write_case
from tests.trainer.worlds import run_jobs

pytestmark = pytest.mark.slow

OF_MUON = ("first.weight", "second.weight")


def under_muon(case: dict[str, Any]) -> dict[str, Any]:
    return {**case, "optimizer": {"name": "muon"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("muon")


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    """Two ranks save at every stage, then three load what another stage saved, and one does."""
    pair = [under_muon(write_case(folder, 2, stage, "fp32")) for stage in STAGES]
    reads = [under_muon(read_case(folder, f"w2-s{(s + 1) % 4}-fp32", 3, s, "fp32")) for s in STAGES]
    single = [under_muon(read_case(folder, f"w2-s{s}-fp32", 1, 2, "fp32")) for s in (1, 3)]
    jobs = [{"world_size": size, "cases": cases} for size, cases in ((2, pair), (3, reads), (1, single))]
    found: dict[str, Any] = {}
    for answer in run_jobs("tests.trainer.engine_world", folder, jobs):
        found |= answer
    return found


def assert_goes_on(folder: Path, answer: dict[str, Any]) -> None:
    """After a restore as without one, to the last bit."""
    assert answer["resumed"] == answer["went_on"]
    assert len(set(answer["losses"] + answer["went_on"])) == 6
    resumed, went_on = (contents(folder / way, OF_MUON) for way in ("resumed", "went_on"))
    assert_same(resumed, went_on)
    start = contents(folder / "start", OF_MUON)
    assert all(went_on[f"{matrix} exp_avg"].any() and not start[f"{matrix} exp_avg"].any() for matrix in OF_MUON)


@pytest.mark.parametrize("stage", STAGES)
def test_muon_restored_at_the_same_stage_goes_on_bit_for_bit(folder: Path, answers: dict[str, Any], stage: int) -> None:
    assert_goes_on(folder / f"w2-s{stage}-fp32", answers[f"w2-s{stage}-fp32"])


@pytest.mark.long
def test_muon_in_bf16_restored_at_the_same_stage_goes_on_bit_for_bit(tmp_path: Path) -> None:
    cases = [under_muon(write_case(tmp_path, 2, stage, "bf16")) for stage in STAGES]
    [answer] = run_jobs("tests.trainer.engine_world", tmp_path, [{"world_size": 2, "cases": cases}])
    assert len(answer) == 4
    for name in answer:
        assert_goes_on(tmp_path / name, answer[name])


def test_muon_restored_at_another_stage_and_world_size_holds_the_same_bits_and_goes_on(
    folder: Path, answers: dict[str, Any]
) -> None:
    reread = [name for name in answers if "-to-" in name]
    assert len(reread) == 6
    for name in reread:
        source = name.split("-to-")[0]
        assert_same(contents(folder / name, OF_MUON), contents(folder / source, OF_MUON))
        expected, found = answers[source]["went_on"][:2], answers[name]["losses"]
        assert [float.fromhex(loss) for loss in found] == pytest.approx(
            [float.fromhex(loss) for loss in expected], rel=1e-6, abs=0
        ), name
