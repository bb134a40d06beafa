"""The dynamic loss scale, on DeepSpeed's own scalers: fp16 itself does not run on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaleConfig, LossScaler

from trainer.engine_state import loss_scale_state, set_loss_scale_state

ARGUMENTS = {"init_scale": 2.0**16, "scale_window": 2, "min_scale": 1.0}


def sharded(dynamic: bool = True) -> Any:
    more = {"delayed_shift": 2, "consecutive_hysteresis": False}
    scaler = DynamicLossScaler(**ARGUMENTS, **more) if dynamic else LossScaler(scale=8.0)
    return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler))


def replicated() -> Any:
    config = LossScaleConfig(torch.float16, True, 1.0, ARGUMENTS)
    return SimpleNamespace(optimizer=SimpleNamespace(loss_scale_config=config))


def test_loss_scale_of_a_dynamic_scaler_goes_on_as_the_one_that_was_saved() -> None:
    engine, fresh = sharded(), sharded()
    scaler = engine.optimizer.loss_scaler
    for overflow in (False, False, False, False):
        scaler.update_scale(overflow)
    saved = loss_scale_state(engine)
    assert saved == {"cur_scale": 2.0**17, "cur_iter": 4, "last_overflow_iter": -1, "cur_hysteresis": 2}
    set_loss_scale_state(fresh, saved)
    for one in (engine, fresh):
        for overflow in (False, False, False):
            one.optimizer.loss_scaler.update_scale(overflow)
    assert vars(fresh.optimizer.loss_scaler) == vars(scaler)


@pytest.mark.parametrize(("source", "target"), [(sharded, replicated), (replicated, sharded)])
def test_loss_scale_crosses_between_stage_0_and_the_others(source: Any, target: Any) -> None:
    engine, fresh = source(), target()
    saved = loss_scale_state(engine)
    assert saved is not None
    saved |= {"cur_scale": 512.0, "cur_iter": 40, "last_overflow_iter": 30}
    set_loss_scale_state(fresh, saved)
    found = loss_scale_state(fresh)
    assert found is not None
    assert {key: found[key] for key in ("cur_scale", "cur_iter", "last_overflow_iter")} == {
        "cur_scale": 512.0,
        "cur_iter": 40,
        "last_overflow_iter": 30,
    }


def test_loss_scale_that_is_fixed_is_neither_saved_nor_changed() -> None:
    engine = sharded(dynamic=False)
    assert loss_scale_state(engine) is None
    set_loss_scale_state(engine, {"cur_scale": 512.0})
    assert engine.optimizer.loss_scaler.cur_scale == 8.0
    assert loss_scale_state(SimpleNamespace(optimizer=SimpleNamespace())) is None
