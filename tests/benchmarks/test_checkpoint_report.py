from __future__ import annotations

from typing import Any

import pytest

from benchmarks.checkpoint.measure import check_saved, summary
from benchmarks.checkpoint.plan import DCP_PROCESS, DCP_THREAD, DEEPSPEED, HEADRACE, SHAPE, TORCH_SAVE
from benchmarks.checkpoint.report import best_dcp, section, targets

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11",
    "peers_versions": {"torch": "2.13"},
}


def sample(cost: float, durable: list[float]) -> dict[str, Any]:
    figures = {"step_seconds": 0.4, "first_cost_seconds": 2 * cost, "bytes": 240e6, "late_saves": 0}
    return {"cost_seconds": [cost, cost], "durable_seconds": durable, **figures}


def results(own: float) -> dict[str, Any]:
    arms = {HEADRACE: own, TORCH_SAVE: 0.6, DCP_THREAD: 0.3, DCP_PROCESS: 0.2, DEEPSPEED: 0.5}
    samples = {arm: [sample(cost, [] if arm == DEEPSPEED else [1.0])] * 3 for arm, cost in arms.items()}
    limits = {"state_bytes": 240e6, "copy_seconds": [0.05], "write_seconds": [0.4]}
    world = {"samples": samples, "refused": {"another": "no such writer"}}
    return {
        "repetitions": 3,
        "block": 10,
        "shape": SHAPE,
        "limits": limits,
        "worlds": {"2": world},
        "machine": MACHINE,
    }


def test_targets_hold_the_best_of_dcp_against_headrace() -> None:
    found = {target.what: target for target in targets(results(own=0.02))}
    assert best_dcp(results(own=0.02)["worlds"]["2"]) == DCP_PROCESS
    torch, dcp = (found[f"2 ranks: a save of {arm} over one of headrace"] for arm in (TORCH_SAVE, DCP_PROCESS))
    assert (torch.found.median, torch.is_met) == (pytest.approx(30.0), True)
    assert (dcp.found.median, dcp.is_met) == (pytest.approx(10.0), True)
    share = found["2 ranks: a save every ten steps, share of their time"]
    assert (share.found.median, share.is_met) == (pytest.approx(0.005), True)


def test_targets_of_a_dear_save_are_not_met() -> None:
    assert [target.is_met for target in targets(results(own=0.1))] == [False, False, False]


def test_targets_of_a_cost_below_the_noise_claim_no_more_than_its_interval_allows() -> None:
    noisy = results(own=0.02)
    noisy["worlds"]["2"]["samples"][HEADRACE] = [sample(cost, [1.0]) for cost in (-0.01, 0.0, 0.01)]
    torch = targets(noisy)[0]
    assert torch.found.median == pytest.approx(60.0)


def test_section_has_a_row_per_arm_and_names_who_does_not_sync_and_who_does_not_work() -> None:
    text = section(results(own=0.02))
    assert "| headrace | 20 (20 to 20) |  | 0.50% | 1.00 (1.00 to 1.00) |" in text
    assert "| DeepSpeed save_checkpoint | 500 (500 to 500) | 25.0 (25.0 to 25.0) | 12.50% | never by itself" in text
    assert "- another does not work here: `no such writer`" in text


def test_check_saved_refuses_weights_that_were_read_back_otherwise() -> None:
    check_saved("arm", {"digests": [[4, "a"]], "loaded": [[4, "a"]]})
    with pytest.raises(RuntimeError, match=r"arm: weights at the saves \{4: 'a'\}, read back \{4: 'b'\}"):
        check_saved("arm", {"digests": [[4, "a"]], "loaded": [[4, "b"]]})
    with pytest.raises(RuntimeError, match="weights at the saves"):
        check_saved("arm", {"digests": [], "loaded": []})


def test_summary_reads_an_answer_as_json_leaves_it() -> None:
    ends = [[step, 10.0 + step + (0.5 if step > 8 else 0.0)] for step in range(1, 13)]
    saves = [[4, 14.0, 14.5], [8, 18.0, 19.0]]
    found = summary({"ends": ends, "saves": saves, "bytes": 1, "process_seconds": 2.0, "versions": {}}, block=2)
    assert found["cost_seconds"] == pytest.approx([0.5])
    assert found["durable_seconds"] == pytest.approx([1.0])
    assert (found["step_seconds"], found["late_saves"]) == (pytest.approx(1.0), 0)
