"""Runs side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.compare import (
    check_pair,
    compare_summaries,
    differing_settings,
    equal_hours,
    equal_tokens,
    loss_at,
    to_dict,
)
from monitoring.compare_text import to_table
from monitoring.compared_runs import compare
from monitoring.errors import MonitoringError
from monitoring.journal import Record
from monitoring.run_summary import summarise
from monitoring.runs import create_run_folder
from tests.monitoring.journals import START_TIME, TOKENS_PER_STEP, end, evaluation, start, step, write_journal


def run_of(steps: int, **changes: object) -> list[Record]:
    return [start(), *[step(i, **changes) for i in range(1, steps + 1)]]


def test_summarise_one_run_gives_its_numbers() -> None:
    records = [*run_of(20), evaluation(10, 6.0), evaluation(20, 6.5, final=True), end(20)]
    summary = summarise("a", "id", records)
    assert (summary.steps, summary.tokens, summary.status, summary.restarts) == (
        20,
        20 * TOKENS_PER_STEP,
        "finished",
        0,
    )
    assert summary.last_loss == summary.best_loss == 9.0 - 0.2
    assert summary.mean_last_10_loss == pytest.approx(9.0 - 0.155)
    assert (summary.best_val_loss, summary.last_val_loss, summary.unigram_loss) == (6.0, 6.5, 7.0)
    assert summary.tokens_per_second == 3010.5
    assert summary.wall_seconds == 20.75
    assert summary.goodput == pytest.approx(20 * 0.49 / 20.75)


def test_summarise_restarted_run_takes_the_last_value_of_a_step() -> None:
    records = [*run_of(5), start(2, 3), step(4, 2, loss=1.0, loss_hex=(1.0).hex()), step(5, 2, loss=2.0)]
    summary = summarise("a", "id", records)
    assert (summary.restarts, summary.best_loss, summary.last_loss, summary.status) == (1, 1.0, 2.0, "not ended")
    assert summary.counted["loss"].tolist()[3:] == [1.0, 2.0]


def test_summarise_empty_and_nan_values_are_missing_not_wrong() -> None:
    empty = summarise("a", "id", [start()])
    assert (empty.steps, empty.last_loss, empty.best_val_loss, empty.tokens_per_second) == (0, None, None, None)
    nan = summarise("a", "id", [step(1, loss=2.0), step(2, loss=None, loss_hex="nan")])
    assert nan.best_loss == 2.0
    assert nan.last_loss is not None and math.isnan(nan.last_loss)


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ([start(), end(1, status="stopped")], "stopped"),
        ([start(), end(1, status="stopped"), start(2)], "not ended"),
        ([start(), end(1, status="failed"), start(2), end(2, 2)], "finished"),
    ],
)
def test_summarise_status_is_that_of_the_newest_attempt(records: list[Record], status: str) -> None:
    assert summarise("a", "id", records).status == status


def test_summarise_wall_time_goodput_and_world_sizes() -> None:
    def at(attempt: int, seconds: float, **record: object) -> Record:
        return {"attempt": attempt, "time": START_TIME + seconds, **record}

    recovered = [
        at(1, 0, event="start", world_size=2),
        at(1, 10, step=1, tokens=1, step_seconds=10.0),
        at(2, 13, event="start", world_size=1, resumed_step=1),
        at(2, 20, event="end", status="stopped"),
    ]
    summary = summarise("a", "id", recovered)
    assert (summary.wall_seconds, summary.goodput, summary.world_sizes) == (20, 0.5, (2, 1))
    resumed = [*recovered, at(3, 1000, event="start"), at(3, 1005, event="eval", tokens=1)]
    assert summarise("a", "id", resumed).wall_seconds == 25
    assert summarise("a", "id", []).wall_seconds == 0


def test_equal_tokens_largest_that_all_reached_and_losses_on_the_line_between() -> None:
    a = summarise("a", "1", [evaluation(10, 6.0), evaluation(20, 5.0), evaluation(30, 4.5)])
    b = summarise("b", "2", [evaluation(8, 6.4), evaluation(24, 4.8)])
    assert equal_tokens([a, b]) == 24 * TOKENS_PER_STEP
    both = compare_summaries([a, b], [{}, {}])
    assert both.val_loss_at_equal_tokens == (pytest.approx(4.8), 4.8)


def test_loss_at_is_on_the_line_between_and_none_outside() -> None:
    curve = [(10, 6.0), (20, 5.0), (30, 4.5)]
    assert loss_at(curve, 24) == pytest.approx(4.8)
    assert loss_at(curve, 20) == 5.0
    assert (loss_at(curve, 31), loss_at(curve, 9), loss_at([], 9)) == (None, None, None)


def test_equal_hours_are_of_each_runs_own_wall_time_without_stops() -> None:
    first = [start(time=100.0), *(evaluation(i, 6.0 - i, time=100.0 + 3600 * i) for i in (1, 2, 3))]
    stopped = [start(time=0.0), evaluation(1, 5.5, time=1800.0), end(1, status="stopped") | {"time": 3600.0}]
    again = [start(2, 1, time=90_000.0), evaluation(3, 3.5, 2, time=90_000.0 + 5400)]
    runs = [summarise("a", "1", first), summarise("b", "2", [*stopped, *again])]
    assert [hours for _, hours, _ in runs[1].val_losses] == [0.5, 2.5]
    assert equal_hours(runs) == 2.5
    both = compare_summaries(runs, [{}, {}])
    assert both.val_loss_at_equal_hours == (pytest.approx(3.5), 3.5)


def test_equal_tokens_none_without_a_common_range() -> None:
    early, late = (summarise("a", "1", [evaluation(number, 6.0)]) for number in (10, 20))
    assert equal_tokens([early, late]) is None
    assert equal_tokens([early, summarise("b", "2", [start()])]) is None
    assert equal_tokens([]) is None


def test_differing_settings_nested_and_absent_ones() -> None:
    first = {"name": "a", "train": {"lr": 0.1, "zero": {"stage": 2}}, "data": {"sources": [{"path": "x"}]}}
    second = {"name": "b", "train": {"lr": 0.1, "zero": {"stage": 3}}, "data": {"sources": [{"path": "y"}]}, "seed": 1}
    assert differing_settings([first, second]) == {
        "name": ("a", "b"),
        "train.zero.stage": (2, 3),
        "data.sources.0.path": ("x", "y"),
        "seed": (None, 1),
    }


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), st.integers(1, 14))
def test_check_pair_finds_the_first_step_that_parts(first: int, other: int, data_at: int, loss_at: int) -> None:
    a = summarise("a", "1", run_of(first))
    changed = [
        step(i, sequence_hash="f" * 16 if i >= data_at else f"{i:013x}abc", **({"loss": 1.0} if i >= loss_at else {}))
        for i in range(1, other + 1)
    ]
    pair = check_pair(a, summarise("b", "2", changed))
    common = min(first, other)
    assert pair.common_steps == common
    assert pair.first_step_of_other_data == (data_at if data_at <= common else None)
    assert pair.first_step_of_other_loss == (loss_at if loss_at <= common else None)


def test_compare_folders_table_and_json(tmp_path: Path) -> None:
    a = create_run_folder(tmp_path / "a", "id-a", "alpha", "train: {lr: 0.1}\n")
    b = create_run_folder(tmp_path / "b", "id-b", "beta[1]", "train: {lr: 0.2}\nseed: 3\n")
    first, second = ({"params": {"train.lr": lr, "seed": seed, "resolved.x": lr}} for lr, seed in ((0.1, 1), (0.2, 3)))
    write_journal(a.out_dir, start(**first), *run_of(12)[1:], evaluation(10, 6.0), end(12))
    write_journal(b.out_dir, start(**second), *run_of(5)[1:], step(6, loss=1.0, loss_hex=(1.0).hex()))
    comparison = compare([a, b])
    rows = {line[:29].strip(): line[29:].split() for line in to_table(comparison).splitlines() if line.strip()}
    assert rows[""] == ["alpha", "beta[1]"]
    assert rows["train loss, last"] == ["8.8800", "1.0000"]
    assert rows["val loss, best"] == ["6.0000", "-"]
    assert rows["val loss at - tokens"] == ["-", "-"]
    assert rows["same data as first"] == ["yes", "(6", "steps)"]
    assert rows["same loss, bit for bit"] == ["until", "step", "6"]
    assert (rows["goodput"], rows["workers"]) == (["46.1%", "49.0%"], ["2", "2"])
    assert (rows["train.lr"], rows["seed"]) == (["0.1", "0.2"], ["1", "3"])
    assert rows["utilisation"] == ["40.0%", "40.0%"]
    values = json.loads(json.dumps(to_dict(comparison), allow_nan=False))
    assert values["settings"] == {"train.lr": [0.1, 0.2], "seed": [1, 3]}
    assert values["pairs"] == [{"common_steps": 6, "first_step_of_other_data": None, "first_step_of_other_loss": 6}]
    assert values["runs"][0]["run_id"] == "id-a"
    assert "counted" not in values["runs"][0]
    assert "no verdict" in values["seeds"]["text"]


def test_compare_run_without_a_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="must hold a journal"):
        compare([create_run_folder(tmp_path, None, "demo", "")])


def test_to_table_many_runs_stays_within_the_width() -> None:
    summaries = [summarise(f"a-run-with-a-long-name-{i}", str(i), run_of(3)) for i in range(6)]
    text = to_table(compare_summaries(summaries, [{"lr": i} for i in range(6)]), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text


def test_to_table_beyond_six_runs_has_a_row_for_each() -> None:
    summaries = [summarise(f"run-{i}", str(i), [*run_of(3), evaluation(3, 5.0 + i)]) for i in range(8)]
    settings = [{"lr": i, "seed": 1, **{f"key{k}": i * k for k in range(keys)}} for keys in (6,) for i in range(8)]
    text = to_table(compare_summaries(summaries, settings), width=120)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(" run-")}
    assert list(rows) == [f"run-{i}" for i in range(8)]
    assert "5.0000" in rows["run-0"] and "12.0000" in rows["run-7"]
    assert "lr: 0, 1, 2, 3, 4, 5, 6, 7" in text
    assert "one seed proves nothing" in text
    assert rows["run-1"][9] == "same"
    few = to_table(compare_summaries(summaries, [{"lr": i} for i in range(8)]), width=200)
    assert "lr: 0" not in few and "7" in next(line for line in few.splitlines() if "run-7" in line).split()[-1]


def test_compare_folder_without_a_start_has_the_settings_of_its_run_file(tmp_path: Path) -> None:
    runs = [
        create_run_folder(tmp_path / name, name, name, f"train: {{lr: {lr}}}\n") for name, lr in (("a", 1), ("b", 2))
    ]
    for run in runs:
        write_journal(run.out_dir, step(1))
    assert compare(runs).settings == {"train.lr": (1, 2)}
