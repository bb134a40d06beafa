from __future__ import annotations

from typing import Any

import pytest

from benchmarks.data.report import report
from benchmarks.data.targets import cpu_ratio, targets
from benchmarks.harness.page import BEGIN, END, put_section, table, target_table
from benchmarks.harness.stats import Estimate
from benchmarks.harness.targets import Target, Unmeasured

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11",
    "own_versions": {"numpy": "2.4"},
    "peers_versions": {"datatrove": "0.9"},
}


def samples(cpu_seconds: float) -> list[dict[str, Any]]:
    return [{"cpu_seconds": cpu_seconds, "wall_seconds": 2 * cpu_seconds, "peak_mb": 100.0, "tokens": 1}] * 3


def tokenised(**cpu_seconds: float) -> dict[str, Any]:
    comparison = {"samples": {name: samples(seconds) for name, seconds in cpu_seconds.items()}, "commands": {}}
    corpus = {"name": "prose-32", "text_bytes": 32_000_000, "documents": 9_000}
    return {"corpus": corpus, "comparison": comparison}


def prepared(one: float, two: float, start: float) -> dict[str, Any]:
    def runs(rate: float) -> list[dict[str, float]]:
        sample = {"start_seconds": start, "steady_mb_per_second": rate, "whole_mb_per_second": 1.0, "wall_seconds": 1.0}
        return [sample] * 3

    return {"megabytes": 512.0, "unit_bytes": 16e6, "command": "c", "samples": {"1": runs(one), "2": runs(two)}}


def results(**parts: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "repetitions": 3, **parts}


def found_for(parts: dict[str, Any], what: str) -> Target:
    (target,) = [target for target in targets(parts) if what in target.what]
    return target


@pytest.mark.parametrize(
    ("found", "at_least", "verdict"),
    [
        ((2.0, 1.5, 3.0), True, "met"),
        ((2.0, 0.9, 3.0), True, "met by the median only"),
        ((0.9, 0.5, 3.0), True, "**not met**"),
        ((0.5, 0.1, 0.9), False, "met"),
        ((0.5, 0.1, 1.1), False, "met by the median only"),
        ((1.5, 0.1, 1.6), False, "**not met**"),
    ],
)
def test_verdict_tells_whether_the_interval_is_on_the_right_side_too(
    found: tuple[float, float, float], at_least: bool, verdict: str
) -> None:
    assert Target("what", 1.0, at_least, Estimate(*found)).verdict == verdict


def test_target_table_shows_a_promise_that_nothing_is_known_of() -> None:
    text = target_table([Unmeasured("speed", 2.0, True, "the peer failed")])
    assert text.splitlines()[-1] == "| speed | ≥ 2 |  | **not measured: the peer failed** |"


def test_cpu_ratio_is_how_many_times_less_cpu_time_an_arm_takes() -> None:
    assert cpu_ratio({"a": samples(0.1), "b": samples(4.0)}, "a", "b").median == pytest.approx(40.0)


@pytest.mark.parametrize(("seconds", "is_met"), [(4.0, True), (3.9, False)])
def test_target_over_a_peer_is_met_from_its_number_on(seconds: float, is_met: bool) -> None:
    parts = results(tokenise=[tokenised(headrace=0.1, datatrove=seconds)])
    assert found_for(parts, "datatrove").is_met is is_met


@pytest.mark.parametrize(("start", "is_met"), [(3.9, True), (4.1, False)])
def test_target_for_a_time_is_met_below_its_number(start: float, is_met: bool) -> None:
    assert found_for(results(prepare=prepared(100.0, 195.0, start)), "start with 1").is_met is is_met


def test_target_for_two_workers_compares_the_steady_rates() -> None:
    assert found_for(results(prepare=prepared(100.0, 195.0, 1.0)), "two workers").found == Estimate(1.95, 1.95, 1.95)


def test_target_for_balance_takes_the_worst_of_our_own_cases() -> None:
    spans = {"headrace": [1.0, 1.0002], "headrace, a rank lost": [1.0, 1.002], "round robin": [1.4, 2.0]}
    row = {"sigma": 1.0, "world": 8, "shards": 512, "seeds": 20, "max_over_mean": spans}
    target = found_for(results(balance=[row]), "balance")
    assert (target.found.median, target.is_met) == (1.002, False)


def test_report_tells_of_the_parts_that_were_measured_alone() -> None:
    text = report(results(tokenise=[tokenised(headrace=0.2, datatrove=10.0)]))
    assert "| headrace | 160.0 (160.0 to 160.0) | 80.0 (80.0 to 80.0) |  | 100 |" in text
    assert "| datatrove | 3.2 (3.2 to 3.2) | 1.6 (1.6 to 1.6) | 50.00 (50.00 to 50.00) | 100 |" in text
    assert "### Reading" not in text
    assert "≥ 40 | 50.00000 | met |" in text


def test_table_is_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_put_section_into_an_empty_page_begins_it() -> None:
    assert put_section("", "new").endswith(f"\n\n{BEGIN}\nnew\n{END}\n")


def test_put_section_replaces_its_own_and_leaves_what_stands_around() -> None:
    page = f"# Results\n\n{BEGIN}\nold\n{END}\n\n## Other\n"
    assert put_section(page, "new") == f"# Results\n\n{BEGIN}\nnew\n{END}\n\n## Other\n"


def test_put_section_into_a_page_of_others_comes_last() -> None:
    assert put_section("# Results\n\n## Other\n", "new") == f"# Results\n\n## Other\n\n{BEGIN}\nnew\n{END}\n"


def test_put_section_between_broken_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="without"):
        put_section(f"{BEGIN}\nold", "new")


def test_put_section_of_another_name_leaves_the_first_alone() -> None:
    page = put_section(put_section("", "data of old"), "faults", name="chaos")
    assert page.endswith(f"{BEGIN}\ndata of old\n{END}\n\n<!-- chaos: begin -->\nfaults\n<!-- chaos: end -->\n")
    assert put_section(page, "new faults", name="chaos") == page.replace("faults", "new faults")
