from __future__ import annotations

from typing import Any

import pytest

from trainer.batch import plan_batch
from trainer.errors import TrainError
from trainer.settings import TrainSettings
from trainer.zero import OWNED, deepspeed_config


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({"max_steps": 1, "global_batch_size": 8, "lr": 1e-3, **changes})


def nested(dotted: str) -> dict[str, Any]:
    value: Any = 1
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def test_config_of_three_ranks_counts_the_padding_into_deepspeeds_batch() -> None:
    config = deepspeed_config(settings(), plan_batch(8, 2, 3), "fp32", parameters=1000)
    assert config["train_batch_size"] == 12
    assert config["gradient_accumulation_steps"] == 2
    assert config["zero_optimization"]["stage"] == 2


def test_config_of_a_small_model_has_buckets_of_its_size() -> None:
    zero = deepspeed_config(settings(), plan_batch(8, 2, 2), "fp32", parameters=1000)["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 1000


@pytest.mark.parametrize(
    ("world_size", "precision", "found"), [(1, "fp32", 0), (1, "bf16", 3), (1, "fp16", 3), (2, "fp32", 3)]
)
def test_config_of_one_rank_in_fp32_partitions_nothing(world_size: int, precision: str, found: int) -> None:
    train = settings(zero={"stage": 3})
    config = deepspeed_config(train, plan_batch(8, 2, world_size), precision, parameters=1000)
    assert config["zero_optimization"]["stage"] == found


@pytest.mark.parametrize(
    ("stage", "precision", "found"),
    [(0, "fp32", None), (1, "fp32", False), (2, "fp32", False), (3, "fp32", None), (2, "bf16", None)],
)
def test_config_sums_gradients_in_place_where_deepspeed_would_copy_them(
    stage: int, precision: str, found: bool | None
) -> None:
    zero = deepspeed_config(settings(zero={"stage": stage}), plan_batch(8, 2, 2), precision, parameters=10)
    assert zero["zero_optimization"].get("reduce_scatter") is found


@pytest.mark.parametrize(("stage", "dtypes"), [(0, None), (1, {"grad_accum_dtype": "fp32"})])
def test_config_in_bf16_accumulates_in_fp32_where_deepspeed_can(stage: int, dtypes: Any) -> None:
    config = deepspeed_config(settings(zero={"stage": stage}), plan_batch(8, 2, 2), "bf16", parameters=10)
    assert config["bf16"] == {"enabled": True}
    assert config.get("data_types") == dtypes


def test_passthrough_is_laid_over_ours() -> None:
    extra = {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 5}, "wall_clock_breakdown": True}
    config = deepspeed_config(settings(deepspeed=extra), plan_batch(8, 2, 2), "fp32", parameters=1000)
    assert config["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 5,
        "allgather_bucket_size": 1000,
        "reduce_scatter": False,
        "overlap_comm": True,
    }
    assert config["wall_clock_breakdown"] is True


@pytest.mark.parametrize("dotted", sorted(OWNED))
def test_passthrough_of_what_headrace_owns_is_refused_with_the_field_to_use(dotted: str) -> None:
    with pytest.raises(TrainError, match=rf"train\.deepspeed\.{dotted}: .*{OWNED[dotted][:8]}"):
        deepspeed_config(settings(deepspeed=nested(dotted)), plan_batch(8, 2, 2), "fp32", parameters=10)
