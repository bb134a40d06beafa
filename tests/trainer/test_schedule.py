from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import TrainError
from trainer.schedule import learning_rate, total_steps
from trainer.settings import TrainSettings


def settings(**changes: Any) -> TrainSettings:
    given_fields = {"max_tokens": 1000, "global_batch_size": 4, "lr": 1.0, **changes}
    return TrainSettings.model_validate({key: value for key, value in given_fields.items() if value is not None})


def schedule(name: str, **changes: float) -> TrainSettings:
    return settings(schedule={"name": name, "warmup_ratio": 0.1, "min_lr": 0.1, **changes})


@pytest.mark.parametrize(
    ("name", "tokens", "rate"),
    [
        ("cosine", 50, 0.5),
        ("cosine", 100, 1.0),
        ("cosine", 550, 0.55),
        ("cosine", 1000, 0.1),
        ("linear", 325, 0.775),
        ("linear", 1000, 0.1),
        ("wsd", 100, 1.0),
        ("wsd", 799, 1.0),
        ("wsd", 900, 0.55),
        ("wsd", 1000, 0.1),
        ("constant", 50, 0.5),
        ("constant", 1000, 1.0),
    ],
)
def test_learning_rate_at_known_places_is_what_the_formula_says(name: str, tokens: int, rate: float) -> None:
    assert learning_rate(schedule(name), tokens, 1000) == pytest.approx(rate)


@given(st.sampled_from(["cosine", "linear", "wsd", "constant"]), st.integers(1, 1000))
def test_learning_rate_anywhere_stays_between_zero_and_the_peak(name: str, tokens: int) -> None:
    rate = learning_rate(schedule(name), tokens, 1000)
    assert 0 < rate <= 1.0
    if tokens >= 100:
        assert rate >= 0.1 - 1e-12


def test_learning_rate_without_warmup_starts_at_the_cosine() -> None:
    train = settings(schedule={"warmup_ratio": 0.0, "min_lr": 0.0})
    assert learning_rate(train, 250, 1000) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def steps(train: TrainSettings, per_epoch: int | None = 50, done: tuple[int, int] = (0, 0), batch: int = 4) -> int:
    return total_steps(train, tokens_per_step=batch * 75, seq_len=75, sequences_per_epoch=per_epoch, done=done)


def test_total_steps_by_tokens_never_exceeds_them() -> None:
    assert steps(settings(max_tokens=1000)) == 3


def test_total_steps_by_epochs_counts_whole_batches() -> None:
    assert steps(settings(max_tokens=None, epochs=1.5), per_epoch=10) == 3


@pytest.mark.parametrize(("batch", "total"), [(4, 3), (2, 5), (8, 2), (1, 10)])
def test_total_steps_with_another_batch_size_count_what_is_left_of_the_tokens(batch: int, total: int) -> None:
    assert steps(settings(max_tokens=1000), done=(1, 300), batch=batch) == total


def test_total_steps_below_those_behind_end_the_run_where_it_is() -> None:
    assert steps(settings(max_tokens=None, max_steps=5), done=(9, 2700)) == 9
    assert steps(settings(max_tokens=1000), done=(9, 2700)) == 9


def test_total_steps_shorter_than_a_step_is_refused() -> None:
    with pytest.raises(TrainError, match=r"max_tokens: 299 .* one optimizer step of 300 tokens"):
        steps(settings(max_tokens=299))


def test_total_steps_epochs_of_a_mixture_is_refused() -> None:
    with pytest.raises(TrainError, match=r"train\.epochs: an epoch is not defined"):
        steps(settings(max_tokens=None, epochs=1), per_epoch=None)


def test_min_lr_left_out_is_a_tenth_of_the_peak() -> None:
    assert learning_rate(settings(), 1000, 1000) == pytest.approx(0.1)
