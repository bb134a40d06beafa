from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.errors import TrainError
from trainer.schedule import learning_rate
from trainer.settings import TrainSettings
from trainer.stages import Length, Stage, stage_at, stage_ends, stage_rate

TOKENS = 64  # of a step


def settings(*stages: dict[str, Any], **train: Any) -> TrainSettings:
    document = {"max_steps": 100, "global_batch_size": 4, "lr": 1.0, "stages": stages, **train}
    return TrainSettings.model_validate(document)


def at(step: int, total: int = 100, tokens_per_step: int = TOKENS) -> Length:
    return Length(step, step * tokens_per_step, total, tokens_per_step)


THREE = settings({"until": {"steps": 10}, "freeze": ["h.*"], "lr": 0.5}, {"until": {"ratio": 0.29}}, {"lr": 0.1})


def test_stage_at_borders_is_the_next_steps_stage() -> None:
    spans = [(stage_at(THREE, at(step)).index, stage_at(THREE, at(step)).begin) for step in (0, 9, 10, 28, 29, 99, 100)]
    assert spans == [(0, 0), (0, 0), (1, 10), (1, 10), (2, 29), (2, 29), (2, 29)]
    assert stage_ends(THREE, at(55)) == [10, 29, 100]


def test_stage_has_its_own_settings_in_place_of_the_runs() -> None:
    stages = [stage_at(THREE, at(step)).train for step in (0, 10, 29)]
    assert [(train.lr, train.freeze) for train in stages] == [(0.5, ("h.*",)), (1.0, ()), (0.1, ())]


def test_stage_of_a_run_without_stages_is_the_whole_run() -> None:
    train = settings()
    assert stage_at(train, at(40)) == Stage(0, train, 0, 100)


@pytest.mark.parametrize(("until", "end"), [({"tokens": 640}, 10), ({"tokens": 703}, 10), ({"ratio": 0.999}, 99)])
def test_stage_end_never_exceeds_the_tokens_asked_for(until: dict[str, Any], end: int) -> None:
    assert stage_ends(settings({"until": until}, {}), at(0)) == [end, 100]


@given(
    cuts=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
    step=st.integers(0, 100),
    tokens_per_step=st.integers(1, 1000),
)
def test_stage_is_the_same_from_wherever_it_is_asked(cuts: list[int], step: int, tokens_per_step: int) -> None:
    """A resume lands in the stage that the run that went on was in, with the same rate, bit for bit."""
    train = settings(*({"until": {"tokens": cut * tokens_per_step}} for cut in sorted(cuts)), {})
    ends = [*sorted(cuts), 100]
    here = at(step, tokens_per_step=tokens_per_step)
    stage = stage_at(train, here)
    assert stage_ends(train, here) == ends
    assert stage.holds(step)
    assert stage.begin <= step < stage.end or step == 100
    assert [begin for begin in (0, *ends) if begin <= min(step, 99)][-1] == stage.begin
    begun = at(stage.begin, tokens_per_step=tokens_per_step)
    tokens = (step + 1) * tokens_per_step
    assert stage_rate(stage, here, tokens) == stage_rate(stage, begun, tokens)


def test_stage_rate_warms_up_and_falls_over_the_stages_own_tokens() -> None:
    train = settings({"until": {"steps": 50}}, {}, schedule={"name": "linear", "warmup_ratio": 0.2, "min_lr": 0.0})
    stage = stage_at(train, at(50))
    rates = [stage_rate(stage, at(step - 1), step * TOKENS) for step in (51, 60, 80, 100)]
    assert rates == pytest.approx([0.1, 1.0, 0.5, 0.0])


def test_stage_rate_without_stages_is_the_schedules() -> None:
    train = settings()
    for step in (1, 2, 50, 100):
        rate = stage_rate(stage_at(train, at(step - 1)), at(step - 1), step * TOKENS)
        assert rate == learning_rate(train, step * TOKENS, 100 * TOKENS)


@pytest.mark.parametrize(
    ("untils", "message"),
    [
        (
            [{"steps": 10}, {"steps": 10}],
            r"train\.stages\.1: every stage must have a step.*begins after step 10",
        ),
        (
            [{"tokens": 63}],
            r"train\.stages\.0: .*begins after step 0 and ends after step 0",
        ),
        ([{"steps": 100}], r"train\.stages\.1: .*ends after step 100 of 100\. Move its until"),
    ],
)
def test_stage_without_a_step_is_refused(untils: list[dict[str, Any]], message: str) -> None:
    train = settings(*({"until": until} for until in untils), {})
    with pytest.raises(TrainError, match=message):
        stage_ends(train, at(0))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{}, {}], "a stage must say where it ends: add until"),
        ([{"until": {"steps": 3}}], "the last stage must have no until"),
        ([{"until": {"steps": 3, "ratio": 0.1}}, {}], r"exactly one of steps, tokens, ratio .*\['steps', 'ratio'\]"),
        ([{"until": {"steps": 3}, "lr": 0.1, "schedule": {"min_lr": 0.2}}, {}], r"min_lr \(0.2\) must not exceed lr"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(*stages)
