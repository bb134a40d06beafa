from __future__ import annotations

import dataclasses
import math

import pytest

from model.flops import model_flops_per_token
from tests.trainer.plan_cases import Case
from trainer.accelerators import ACCELERATORS, find_accelerator, usable_gpu_bytes
from trainer.errors import TrainError
from trainer.plan import mean_seconds_between_failures
from trainer.plan_time import daly_seconds, recomputed_share, time_plan, young_seconds

HOUR = 3600.0


def test_young_is_the_root_of_twice_cost_times_mtbf() -> None:
    assert young_seconds(50.0, 10_000.0) == 1000.0


def test_daly_by_hand() -> None:
    # sqrt(2 * 300 * 86400) * (1 + sqrt(300 / 172800) / 3 + 300 / 172800 / 9) - 300
    assert daly_seconds(300.0, 24 * HOUR) == pytest.approx(7200 * (1 + 0.0416667 / 3 + 0.00173611 / 9) - 300, rel=1e-6)


def test_daly_of_a_save_as_long_as_two_failures_apart_is_the_mtbf() -> None:
    assert daly_seconds(2 * HOUR, HOUR) == HOUR


def test_daly_minimises_the_expected_time_of_exponential_failures() -> None:
    save, apart = 60.0, 4 * HOUR

    def expected_time(interval: float) -> float:  # Daly 2006, equation 20, without the restart: per second of work
        return apart * (math.exp((interval + save) / apart) - 1) / interval

    best = min(range(60, 7200, 5), key=lambda interval: expected_time(float(interval)))
    assert daly_seconds(save, apart) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(
    ("mode", "share"), [("none", 0.0), ("selective", 0.0), ("full", 1.0), ("full_cpu", 1.0), ("every_4", 0.25)]
)
def test_recomputed_share_of_a_mode(mode: str, share: float) -> None:
    assert recomputed_share(mode) == share


def test_time_is_flops_by_what_the_ranks_do() -> None:
    config = Case("small", 2, 4).config
    plan = time_plan(config, 10, 1000, 4, 1e12, 0.5)
    per_token = model_flops_per_token(config, config.max_seq_len)
    assert plan.flops == per_token * 10_000
    assert plan.step_seconds == pytest.approx(per_token * 1000 / 2e12)
    assert plan.hours == pytest.approx(plan.step_seconds * 10 / HOUR)
    assert plan.tokens_per_second == pytest.approx(2e12 / per_token)


def test_time_with_a_second_forward_pass_is_a_third_longer_for_the_same_flops() -> None:
    config = Case("small", 2, 4).config
    full = dataclasses.replace(config, activation_checkpointing="full")
    plain, again = (time_plan(shape, 10, 1000, 4, 1e12, 0.5) for shape in (config, full))
    assert again.flops == plain.flops
    assert again.step_seconds == pytest.approx(plain.step_seconds * 4 / 3)


def test_failures_of_many_devices_are_as_many_times_as_frequent() -> None:
    assert mean_seconds_between_failures(1000.0, 10) == 100 * HOUR


@pytest.mark.parametrize(("asked", "name"), [("h100", "H100"), ("4090", "RTX-4090"), ("A100-40GB", "A100-40GB")])
def test_accelerator_is_found_in_any_case(asked: str, name: str) -> None:
    assert find_accelerator(asked) is ACCELERATORS[name]


def test_unknown_accelerator_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(TrainError, match=r"--accelerator: must be one of .*H100.*found 'H10O'\. Did you mean H100\?"):
        find_accelerator("H10O")


def test_accelerators_are_of_plausible_figures() -> None:
    for gpu in ACCELERATORS.values():
        assert 0 < gpu.usable_bytes < gpu.memory_bytes
        assert gpu.flops_per_second["fp32"] < gpu.flops_per_second["fp16"]
    assert not ACCELERATORS["V100"].has_bf16


def test_usable_memory_of_a_gpu_leaves_two_gib_and_a_twentieth() -> None:
    assert usable_gpu_bytes(100 << 30) == 93 << 30
