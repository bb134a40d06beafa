from __future__ import annotations

from typing import Any

import pytest

from benchmarks.checkpoint.measure import check_saved, summary
from benchmarks.checkpoint.plan import DCP_CACHED, DCP_PROCESS, DCP_THREAD, DEEPSPEED, HEADRACE, SHAPE, TORCH_SAVE
from benchmarks.checkpoint.report import best_dcp, costs, section, share_of_steps, targets
from benchmarks.harness.targets import Target, Unmeasured

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11",
    "peers_versions": {"torch": "2.13"},
}


def sample(cost: float, durable: list[float]) -> dict[str, Any]:
    phases = [{"copied": 0.1, "written": 0.9, "counted": 0.01, "stood_still": 0.002}] * 2
    figures = {"step_seconds": 0.4, "first_cost_seconds": 2 * cost, "bytes": 240e6, "late_saves": 0, "phases": phases}
    return {"cost_seconds": [cost, cost], "durable_seconds": durable, **figures}


def results(own: float) -> dict[str, Any]:
    arms = {HEADRACE: own, TORCH_SAVE: 0.6, DCP_THREAD: 0.3, DCP_CACHED: 0.2, DCP_PROCESS: 0.25, DEEPSPEED: 0.5}
    samples = {arm: [sample(cost, [] if arm == DEEPSPEED else [1.0])] * 3 for arm, cost in arms.items()}
    limits = {"state_bytes": 240e6, "hash": "xxh", "copy_seconds": [0.05], "hash_seconds": [0.05]}
    limits |= {"write_seconds": [0.4]}
    world = {"samples": samples, "refused": {"another": ["no such writer"]}, "failed": {}}
    return {
        "repetitions": 3,
        "block": 10,
        "shape": SHAPE,
        "limits": limits,
        "worlds": {"2": world},
        "machine": MACHINE,
    }


def test_targets_hold_the_best_of_dcp_against_headrace() -> None:
    found = {target.what: target for target in targets(results(own=0.02)) if isinstance(target, Target)}
    assert best_dcp(results(own=0.02)["worlds"]["2"]) == DCP_CACHED
    torch, dcp = (found[f"2 ranks: a save of {arm} over one of headrace"] for arm in (TORCH_SAVE, DCP_CACHED))
    assert (torch.found.median, torch.is_met) == (pytest.approx(30.0), True)
    assert (dcp.found.median, dcp.is_met) == (pytest.approx(10.0), True)
    share = found["2 ranks: a save every ten steps, share of their time"]
    assert (share.found.median, share.is_met) == (pytest.approx(0.005), True)


def test_targets_of_a_dear_save_are_not_met() -> None:
    assert [target.verdict for target in targets(results(own=0.1))] == ["**not met**"] * 3


def test_costs_are_a_mean_of_each_run_so_that_the_interval_is_of_runs() -> None:
    world = results(own=0.02)["worlds"]["2"]
    world["samples"][HEADRACE] = [{**sample(0.0, []), "cost_seconds": seconds} for seconds in ([0.0, 0.2], [0.1, 0.1])]
    assert costs(world, HEADRACE) == [pytest.approx(0.1), pytest.approx(0.1)]
    share = share_of_steps(world, HEADRACE)
    assert (share.low, share.high) == (pytest.approx(0.025), pytest.approx(0.025))


@pytest.mark.parametrize(
    ("gone", "unknown"),
    [(HEADRACE, 3), (TORCH_SAVE, 1), (DCP_CACHED, 0)],
)
def test_targets_of_an_arm_that_failed_are_told_as_not_measured(gone: str, unknown: int) -> None:
    found = results(own=0.02)
    found["worlds"]["2"]["samples"][gone] = []
    found["worlds"]["2"]["failed"] = {gone: ["the port was taken"]}
    verdicts = [target.verdict for target in targets(found) if isinstance(target, Unmeasured)]
    assert verdicts == [f"**not measured: {gone}: the port was taken**"] * unknown
    assert f"- **{gone} failed**: `the port was taken`" in section(found)


def test_section_holds_the_phases_of_a_save_against_what_the_machine_allows() -> None:
    text = section(results(own=0.02))
    assert "a copy in memory 50 (50 to 50) ms, hashed (xxh) 50 (50 to 50) ms, written and synced 400" in text
    row = "| 2 | 100 (100 to 100) | 2.0 (2.0 to 2.0) | 900 (900 to 900) | 2.0 (2.0 to 2.0) | 10 (10 to 10) |"
    assert row in text


def test_targets_of_a_cost_below_the_noise_claim_no_more_than_its_interval_allows() -> None:
    noisy = results(own=0.02)
    noisy["worlds"]["2"]["samples"][HEADRACE] = [sample(cost, [1.0]) for cost in (-0.01, 0.0, 0.01)]
    torch = targets(noisy)[0]
    assert isinstance(torch, Target)
    assert torch.found.median == pytest.approx(60.0)


def test_section_has_a_row_per_arm_and_names_who_does_not_sync_and_who_does_not_work() -> None:
    text = section(results(own=0.02))
    assert "| headrace | 20 (20 to 20) |  | 0.50% | 1.00 (1.00 to 1.00) |" in text
    assert "| DeepSpeed save_checkpoint | 500 (500 to 500) | 25.0 (25.0 to 25.0) | 12.50% | never by itself" in text
    assert "- another does not work here: `no such writer`" in text


def test_check_saved_refuses_weights_that_were_read_back_otherwise() -> None:
    check_saved("arm", {"digests": [[4, "a"]], "loaded": [[4, "a"]], "bytes": 980}, 1000)
    with pytest.raises(RuntimeError, match=r"arm: weights at the saves \{4: 'a'\}, read back \{4: 'b'\}"):
        check_saved("arm", {"digests": [[4, "a"]], "loaded": [[4, "b"]], "bytes": 1000}, 1000)
    with pytest.raises(RuntimeError, match="weights at the saves"):
        check_saved("arm", {"digests": [], "loaded": [], "bytes": 1000}, 1000)


def test_check_saved_refuses_files_that_have_no_room_for_the_moments() -> None:
    with pytest.raises(RuntimeError, match="arm: a checkpoint has 979 bytes, weights and moments have 1,000"):
        check_saved("arm", {"digests": [[4, "a"]], "loaded": [[4, "a"]], "bytes": 979}, 1000)


def test_summary_reads_an_answer_as_json_leaves_it() -> None:
    ends = [[step, 10.0 + step + (0.5 if step > 8 else 0.0)] for step in range(1, 13)]
    saves = [[4, 14.0, 14.5], [8, 18.0, 19.0]]
    more = {"bytes": 1, "process_seconds": 2.0, "versions": {}, "phases": [{"copied": 9.0}, {"copied": 0.1}]}
    found = summary({"ends": ends, "saves": saves, **more}, block=2)
    assert found["phases"] == [{"copied": 0.1}]
    assert found["cost_seconds"] == pytest.approx([0.5])
    assert found["durable_seconds"] == pytest.approx([1.0])
    assert (found["step_seconds"], found["late_saves"]) == (pytest.approx(1.0), 0)
