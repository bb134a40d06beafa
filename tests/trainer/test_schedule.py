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
    train = settings(schedule={"warmup_ratio": 0.0})
    assert learning_rate(train, 250, 1000) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_total_steps_by_tokens_never_exceeds_them() -> None:
    assert total_steps(settings(max_tokens=1000), tokens_per_step=300, sequences_per_epoch=50) == 3


def test_total_steps_by_epochs_counts_whole_batches() -> None:
    train = settings(max_tokens=None, epochs=1.5)
    assert total_steps(train, tokens_per_step=64, sequences_per_epoch=10) == 3


def test_total_steps_shorter_than_a_step_is_refused() -> None:
    with pytest.raises(TrainError, match=r"max_tokens: 1000 .* one optimizer step of 1024 tokens"):
        total_steps(settings(max_tokens=1000), tokens_per_step=1024, sequences_per_epoch=50)


def test_total_steps_epochs_of_a_mixture_is_refused() -> None:
    with pytest.raises(TrainError, match=r"train\.epochs: an epoch is not defined"):
        total_steps(settings(max_tokens=None, epochs=1), tokens_per_step=64, sequences_per_epoch=None)
