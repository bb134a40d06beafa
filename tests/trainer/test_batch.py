from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batch import LARGEST_AUTO_MICRO_BATCH, plan_batch
from trainer.errors import TrainError


@given(st.integers(1, 4096), st.one_of(st.just("auto"), st.integers(1, 64)), st.integers(1, 64))
def test_plan_any_sizes_holds_the_global_batch_with_less_than_one_pass_over(
    global_batch: int, micro: int | str, world_size: int
) -> None:
    if isinstance(micro, int) and micro > global_batch:
        return
    plan = plan_batch(global_batch, micro, world_size)
    share = -(-global_batch // world_size)
    assert plan.rows_per_rank >= share
    assert plan.rows_per_rank - share < plan.micro_batch
    if micro == "auto":
        assert plan.micro_batch <= LARGEST_AUTO_MICRO_BATCH
        assert plan.rows_per_rank - share < plan.accumulation


def test_plan_micro_batch_above_share_takes_the_share() -> None:
    plan = plan_batch(global_batch=8, micro_batch=8, world_size=4)
    assert (plan.micro_batch, plan.accumulation) == (2, 1)


def test_plan_micro_batch_above_global_batch_is_refused() -> None:
    with pytest.raises(TrainError, match=r"train\.micro_batch_size.*global_batch_size \(8\).*found 9"):
        plan_batch(global_batch=8, micro_batch=9, world_size=1)
