from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.targets import Target, Unmeasured
from benchmarks.train.arms import ACCELERATE, BARE, BARE_KEEPING, LIGHTNING, NANO, STAGES, headrace, timed_steps
from benchmarks.train.overhead import OWN_ALONE
from benchmarks.train.report import failures, report
from benchmarks.train.start import BARE as BARE_START
from benchmarks.train.start import own_name
from benchmarks.train.targets import best_of, over_formula, targets, tokens_per_second, utilisation

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11",
    "own_versions": {"torch": "2.13"},
    "peers_versions": {"lightning": "2.6"},
}
WORK = {
    "parameters": 30_000_000,
    "flops_per_token": 1e8,
    "tokens_per_step": 1000,
    "sequences": 4,
    "steps": 60,
    "warm_steps": 10,
    "model": {"n_layer": 6, "n_head": 6, "n_embd": 384, "vocab_size": 16_384},
    "seq_len": 256,
}


def sample(step_seconds: float, cpu_share: float = 1.0) -> dict[str, Any]:
    """A run whose first ten steps were slow, and the rest as given."""
    seconds = [10.0 * (step + 1) for step in range(10)]
    seconds += [100.0 + step_seconds * (step + 1) for step in range(50)]
    cpu = {"10": {"tree": 7.0, "rank": [5.0]}, "60": {"tree": 7.0 + 50 * step_seconds * cpu_share, "rank": [6.0]}}
    return {"seconds": seconds, "cpu": cpu}


def part(ranks: int = 1, **step_seconds: float) -> dict[str, Any]:
    names = {"own": headrace(2), "bare": BARE, "lightning": LIGHTNING, "accelerate": ACCELERATE, "nano": NANO}
    samples = {names[name]: [sample(seconds)] * 3 for name, seconds in step_seconds.items()}
    common = {"failed": {}, "apart": dict.fromkeys(samples, 1e-6), "commands": dict.fromkeys(samples, "python x.py")}
    return {"work": WORK, "ranks": ranks, "samples": samples, "peaks": [{"a": 1e11, "b": 2e11}], **common}


def results(**parts: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): found for name, found in parts.items()}
    return {"machine": MACHINE, "repetitions": 3, **named}


def found_for(parts: dict[str, Any], what: str) -> Target:
    (target,) = [target for target in known(parts) if what in target.what]
    return target


def known(parts: dict[str, Any]) -> list[Target]:
    return [promise for promise in targets(parts) if isinstance(promise, Target)]


def test_timed_steps_are_those_between_the_marks() -> None:
    steps, wall, cpu = timed_steps(sample(1.5, cpu_share=0.5))
    assert (steps, wall, cpu) == (50, pytest.approx(75.0), pytest.approx(37.5))


def test_tokens_per_second_are_by_wall_time_or_by_cpu_time() -> None:
    found = {**part(own=2.0), "samples": {headrace(2): [sample(2.0, cpu_share=0.5)]}}
    assert tokens_per_second(found, headrace(2)) == [pytest.approx(500.0)]
    assert tokens_per_second(found, headrace(2), "cpu") == [pytest.approx(1000.0)]


def test_utilisation_is_of_the_best_product_of_as_many_cores_as_ranks() -> None:
    # 1,000 tokens/s of 1e8 FLOPs are half of 2e11 FLOPs/s.
    assert utilisation(part(own=1.0), headrace(2)).median == pytest.approx(0.5)
    assert utilisation(part(ranks=2, own=1.0), headrace(2)).median == pytest.approx(0.25)


@pytest.mark.parametrize(("own", "is_met"), [(1.0, True), (1.02, False)])
def test_target_over_the_bare_loop_is_met_from_its_number_on(own: float, is_met: bool) -> None:
    assert found_for(results(ranks_1=part(own=own, bare=1.0)), "over bare").is_met is is_met


def test_target_over_frameworks_takes_the_fastest_of_them() -> None:
    measured = part(own=1.0, lightning=1.2, accelerate=1.1)
    assert best_of(measured, [LIGHTNING, ACCELERATE]) == ACCELERATE
    target = found_for(results(ranks_1=measured), "over Accelerate")
    assert (target.is_met, target.found.median) == (False, pytest.approx(1.1))


def test_targets_of_a_start_are_a_ratio_when_cold_and_seconds_when_warm() -> None:
    seconds = {own_name(1, False): [9.0] * 3, own_name(1, True): [1.9] * 3, BARE_START: [6.0] * 3}
    found = results(start={"work": WORK, "samples": seconds, "failed": {}, "commands": {}})
    assert [(target.is_met, target.found.median) for target in known(found)] == [(False, 1.5), (True, 1.9)]


def memory_row(stage: int, peak: int, ranks: int = 2) -> dict[str, Any]:
    return {"arm": "headrace", "stage": stage, "ranks": ranks, "rest": 5, "peak": peak, "formula": 80, "buckets": 20}


def test_target_of_memory_takes_the_worst_number_of_ranks() -> None:
    rows = [memory_row(1, 104), memory_row(1, 106, ranks=4), memory_row(2, 90)]
    assert over_formula(rows[0]) == pytest.approx(1.04)
    found = known(results(memory={"parameters": 10, "rows": rows, "failed": {}}))
    assert [(target.is_met, target.found.median) for target in found] == [(False, 1.06), (True, 0.9)]


def test_targets_of_what_was_not_measured_tell_why() -> None:
    failed = {**part(own=1.0, bare=1.0), "failed": {NANO: "exit status 1"}}
    unmeasured = {p.what: p.reason for p in targets(results(ranks_1=failed)) if isinstance(p, Unmeasured)}
    assert unmeasured[f"1 rank: {headrace(2)} over {NANO}, tokens/s"] == f"{NANO} failed"
    assert unmeasured[f"1 rank: {headrace(2)} over {BARE_KEEPING}, tokens/s"] == f"{BARE_KEEPING} was not run"
    assert unmeasured[f"start: {own_name(1, True)}, s"] == "this part was not run"
    assert f"1 rank: {headrace(2)} over {BARE}, tokens/s" not in unmeasured


def test_report_tells_of_the_parts_that_were_measured_and_of_what_failed() -> None:
    measured = {**part(own=2.0, bare=1.0), "failed": {LIGHTNING: "Lightning: exit status 1: no\nluck"}}
    text = report(results(ranks_1=measured))
    assert f"| {BARE} | 1,000 (1,000 to 1,000) |  | 1,000 (1,000 to 1,000) | 0.500 (0.500 to 0.500) | 1.0e-06 |" in text
    assert f"| {headrace(2)} | 500 (500 to 500) | 0.500 (0.500 to 0.500) |" in text
    assert "**Lightning failed and is not timed**: luck" in text
    assert "### Training, 2 ranks" not in text
    assert failures(results(ranks_1=measured)) == {f"ranks-1: {LIGHTNING}": "Lightning: exit status 1: no\nluck"}


def test_report_of_memory_is_in_bytes_a_parameter() -> None:
    text = report(results(memory={"parameters": 10, "rows": [memory_row(3, 104)], "failed": {}}))
    assert "| 2 | 3 | headrace | 0.50 | 10.40 | 8.00 | 2.00 | 1.040 |" in text


def test_report_of_overhead_sums_the_phases_and_lists_the_operations() -> None:
    found = {
        "ranks": 1,
        "phases": {"forward": 30.0, "backward": 40.5},
        "operations": {"aten::copy_": 12.0, "aten::mm": 3.25},
    }
    text = report(results(overhead={"arms": {BARE: found}, "failed": {headrace(1): "exit status 1: no"}}))
    assert f"| 1 | {BARE} | 70.5 | 30.0 | 40.5 | aten::copy_ 12.0, aten::mm 3.2 |" in text
    assert f"**{headrace(1)} failed" in text


def test_our_arms_are_those_of_all_stages() -> None:
    assert len({headrace(stage) for stage in STAGES}) == 4


def test_report_of_limits_has_each_steps_cost_beside_the_whole_step() -> None:
    def cost(ranks: int, forward: float, backward: float) -> dict[str, Any]:
        return {"ranks": ranks, "phases": {"forward": forward, "backward": backward}, "operations": {}}

    arms = {BARE: cost(1, 30.0, 40.0), BARE_KEEPING: cost(1, 25.0, 20.0), OWN_ALONE: cost(1, 25.2, 50.0)}
    text = report(results(ranks_1=part(own=0.5), overhead={"arms": arms, "failed": {}}))
    assert "of 70 ms that a step costs beside its batch, the allocator's settings save 25 ms" in text
    assert f"| 1 | {headrace(2)} | 500 | 75 | 15% | backward 30 |" in text
    assert "What limits" not in report(results(ranks_1=part(own=0.5)))
