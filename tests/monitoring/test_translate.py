"""Records to MLflow's points, parameters, tags and status."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.journal import Record
from monitoring.translate import ExportedModel, Point, Translator
from tests.monitoring.journals import START_TIME, dataset_facts, end, evaluation, start, step


def test_step_all_numbers_become_points_with_the_journals_time() -> None:
    update = Translator().translate([step(7, loss_scale=1024.0)])
    points = {point.key: point for point in update.points}
    assert points["loss"] == Point("loss", 9.0 - 0.07, round((START_TIME + 1007) * 1000), 7)
    assert points["loss_scale"].value == 1024.0
    assert points["sequence_hash"].value == 7.0
    assert set(points) == {
        *("loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "memory_bytes"),
        *("data_wait_seconds", "step_seconds", "loss_scale", "sequence_hash"),
    }


def test_rank_times_become_two_metrics_and_name_the_slowest() -> None:
    told: Record = {"event": "rank_times", "attempt": 1, "time": 2.0, "step": 16}
    told |= {"seconds": [0.1, 0.4, 0.2], "nodes": ["a", "b", "c"]}
    update = Translator().translate([told, told])
    assert {(point.key, point.value, point.step) for point in update.points} == {
        ("rank_seconds_slowest", 0.4, 16),
        ("rank_seconds_median", 0.2, 16),
    }
    assert len(update.points) == 2
    assert update.tags == {"headrace.slowest_rank": "rank 1 on b: 0.400 s a step by itself, the others 0.150 s"}


@given(st.integers(0, 2**64 - 1))
def test_sequence_hash_is_its_first_13_digits_exactly(value: int) -> None:
    text = f"{value:016x}"
    points = Translator().translate([step(1, sequence_hash=text)]).points
    [found] = [point.value for point in points if point.key == "sequence_hash"]
    assert int(found) == value >> 12


def test_step_nan_loss_is_sent_as_nan() -> None:
    points = Translator().translate([step(1, loss=None, loss_hex="nan", mfu=None)]).points
    values = {point.key: point.value for point in points}
    assert math.isnan(values["loss"])
    assert "mfu" not in values


def test_step_run_twice_the_first_is_kept_over_calls() -> None:
    translator = Translator()
    first = translator.translate([start(), step(1), step(2)])
    second = translator.translate([start(2, 1), step(2, 2), step(3, 2), evaluation(2, 6.0, 2)])
    assert {point.step for point in first.points if point.key == "loss"} == {1, 2}
    assert {point.step for point in second.points if point.key == "loss"} == {3}


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), max_size=40), st.integers(0, 2**32))
def test_points_any_order_and_any_cut_no_metric_has_a_step_twice(runs: list[tuple[int, int]], seed: int) -> None:
    records: list[Record] = [step(number, attempt) for number, attempt in runs]
    records += [evaluation(number, 5.0, attempt, final=number == 6) for number, attempt in runs]
    generator = random.Random(seed)
    generator.shuffle(records)
    cut = generator.randint(0, len(records))
    translator = Translator()
    points = translator.translate(records[:cut]).points + translator.translate(records[cut:]).points
    keys = [(point.key, point.step) for point in points]
    assert len(keys) == len(set(keys))
    assert {s for key, s in keys if key == "loss"} == {number for number, _ in runs}


def test_start_gives_params_tags_and_run_file_as_text() -> None:
    params = {"train.lr": 0.001, "a": None, "b": True, "c": ["x", {"path": "三"}], "s": "text", "long": "x" * 7000}
    update = Translator().translate([start(3, 40, params=params, tags={"t": "y" * 9000})])
    assert update.params | {"long": ""} == {
        "train.lr": "0.001", "a": "null", "b": "true", "c": '["x", {"path": "三"}]', "s": "text", "long": "",
    }  # fmt: skip
    assert len(update.params["long"]) == 6000
    assert len(update.tags["t"]) == 8000
    assert (update.tags["headrace.attempts"], update.tags["headrace.world_size"]) == ("3", "2")
    assert (update.status, update.run_file) == ("RUNNING", "name: demo\n")
    assert update.points == [Point("attempt", 3.0, round((START_TIME + 3000) * 1000), 40)]


@pytest.mark.parametrize(
    ("key", "expected"),
    [("a.b", "a.b"), ("a*b", "a_b"), ("/a", "_/a"), ("a//b", "a/_/b"), ("..", "_"), ("a/../b", "a/_/b"), ("", "_")],
)
def test_param_keys_are_made_such_that_mlflow_takes_them(key: str, expected: str) -> None:
    assert list(Translator().translate([start(params={key: 1}, tags={})]).params) == [expected]


def test_final_evaluation_at_the_step_of_another_is_kept_beside_it() -> None:
    points = Translator().translate([evaluation(10, 5.0), evaluation(10, 4.5, final=True)]).points
    values = {point.key: point.value for point in points}
    assert values == {
        **{"val_loss": 5.0, "unigram_loss": 7.0, "eval_seconds": 0.25},
        **{"final_val_loss": 4.5, "final_unigram_loss": 7.0},
    }


def test_checkpoint_restart_and_rank_dead_events() -> None:
    common = {"attempt": 2, "time": START_TIME}
    update = Translator().translate(
        [
            {"event": "checkpoint", "step": 4, "seconds": 0.5, "bytes": 600, "path": "p", **common},
            {"event": "rank_dead", "rank": 1, "node": "n1", "reason": "signal 9", "step": 5, **common},
            {"event": "restart", "seconds": 0.7, "resumed_step": 4, **common, "attempt": 3},
            {"event": "unknown to us", **common},
        ]
    )
    values = {(point.key, point.step): point.value for point in update.points}
    assert values == {("checkpoint_seconds", 4): 0.5, ("checkpoint_bytes", 4): 600.0, ("restart_seconds", 4): 0.7}
    failure = "attempt 2: rank 1 on n1 at step 5: signal 9"
    assert update.tags == {"headrace.checkpoint": "p", "headrace.last_failure": failure}
    assert update.status is None


def test_newest_checkpoint_is_a_tag_also_where_its_step_was_saved_before() -> None:
    saved = [
        {"event": "checkpoint", "step": 4, "path": f"/c/step-4-{attempt}", "attempt": attempt, "time": START_TIME}
        for attempt in (1, 2)
    ]
    assert Translator().translate(saved).tags == {"headrace.checkpoint": "/c/step-4-2"}


@pytest.mark.parametrize(("address", "kind"), [("/data/mill", "local"), ("s3://bucket/mill", "s3")])
def test_datasets_of_a_start_are_inputs_with_a_digest_of_mlflows_length(address: str, kind: str) -> None:
    facts = [dataset_facts() | {"address": address}, dataset_facts("val")]
    train, val = Translator().translate([start(datasets=facts)]).datasets
    assert (train.name, train.context, train.digest) == ("mill/train", "training", "f" * 36)
    assert (train.source_type, json.loads(train.source)) == (kind, {"uri": address})
    profile = json.loads(train.profile)
    assert (profile["fingerprint"], profile["tokens"]) == ("f" * 64, 9000)
    assert json.loads(train.schema)["mlflow_tensorspec"][0]["tensor-spec"] == {"dtype": "uint16", "shape": [-1]}
    assert (val.name, val.context) == ("mill/val", "validation")


def test_start_of_a_journal_from_before_datasets_were_told_has_none() -> None:
    assert Translator().translate([start()]).datasets == []


def test_exported_model_is_to_be_logged() -> None:
    event = {"event": "model", "attempt": 1, "time": START_TIME, "step": 9, "path": "/r/model", "checkpoint": "step-9"}
    update = Translator().translate([{**event, "texts": ["text", "pair"]}])
    assert update.model == ExportedModel("/r/model", "step-9", 9, ("text", "pair"))
    assert (update.points, update.status) == ([], None)


def test_checkpoint_stall_and_restart_of_a_gang() -> None:
    common = {"attempt": 2, "time": START_TIME}
    saved = {"event": "checkpoint", "step": 4, "stall_seconds": 0.1, "written_seconds": 2.0, **common}
    restarted = {"event": "gang_restart", "kind": "node", "reason": "the raylet of n1 died", **common}
    update = Translator().translate([saved, restarted])
    values = {point.key: point.value for point in update.points}
    assert values == {"checkpoint_stall_seconds": 0.1, "checkpoint_written_seconds": 2.0}
    assert update.tags == {"headrace.last_failure": "attempt 2: the raylet of n1 died"}


@pytest.mark.parametrize(
    ("status", "expected"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")]
)
def test_end_sets_status_and_time(status: str, expected: str) -> None:
    update = Translator().translate([start(), end(9, status=status)])
    assert (update.status, update.end_time_ms) == (expected, round((START_TIME + 1009.75) * 1000))


def test_start_after_an_end_is_running_again() -> None:
    update = Translator().translate([start(), end(9, status="failed"), start(2, 9)])
    assert (update.status, update.end_time_ms) == ("RUNNING", None)
