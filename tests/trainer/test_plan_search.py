from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.plan_cases import Case, memory_model
from trainer.plan_memory import Setting
from trainer.plan_search import cost, largest_that_fits, nearest_settings

GIB = 1 << 30
FAST = Setting(2, 8, "none")


@given(st.integers(0, 200), st.integers(0, 200))
def test_largest_that_fits_is_the_largest(limit: int, most: int) -> None:
    assert largest_that_fits(lambda rows: rows <= limit, most) == min(limit, most)


def test_largest_that_fits_tries_a_single_pass_first() -> None:
    assert largest_that_fits(lambda rows: rows in (1, 2, 8), 8) == 8


def test_nearest_settings_with_room_for_all_change_nothing_that_costs() -> None:
    best = nearest_settings(lambda setting: 1, 2, share=8, seq_len=1024)[0]
    assert (best.setting.checkpointing, best.setting.offload, best.setting.micro_batch) == ("none", "none", 8)
    assert best.cost == 0.0


def test_nearest_settings_fit_and_come_in_the_order_of_their_cost() -> None:
    model = memory_model(Case("middle", 0, 4), "cuda")
    room = model.plan(Setting(3, 1, "full")).peak * 11 // 10
    found = nearest_settings(lambda setting: model.plan(setting).peak, room, share=16, seq_len=128)
    assert 0 < len(found) <= 3
    assert all(model.plan(one.setting).peak == one.needed_bytes <= room for one in found)
    assert [one.cost for one in found] == sorted(one.cost for one in found)


def test_nearest_settings_are_the_best_of_all_that_fit() -> None:
    model = memory_model(Case("middle", 0, 4), "cuda")
    room = model.plan(Setting(2, 2, "selective")).peak

    def needed(setting: Setting) -> int:
        return model.plan(setting).peak

    best = nearest_settings(needed, room, share=4, seq_len=128)[0]
    every = [
        Setting(stage, rows, mode)
        for stage in range(4)
        for rows in range(1, 5)
        for mode in ("none", "selective", "every_2", "full", "full_cpu")
    ]
    assert best.cost == min(cost(one, 128) for one in every if needed(one) <= room)


def test_nearest_settings_without_room_are_none() -> None:
    assert nearest_settings(lambda setting: 2, 1, share=8, seq_len=128) == []


def test_nearest_settings_offload_only_where_it_is_to_be_tried() -> None:
    def needed(setting: Setting) -> int:
        return 1 if setting.offload == "optimizer" else 9

    assert nearest_settings(needed, 5, share=8, seq_len=128) == []
    found = nearest_settings(needed, 5, share=8, seq_len=128, offloads=("none", "optimizer"))
    assert {one.setting.offload for one in found} == {"optimizer"}


def test_cost_rises_with_recomputation_stage_3_offload_and_short_passes() -> None:
    costly = [
        Setting(2, 8, "selective"),
        Setting(2, 8, "full"),
        Setting(3, 8, "none"),
        Setting(2, 1, "none"),
        Setting(2, 8, "none", "optimizer"),
    ]
    assert all(cost(setting, 1024) > cost(FAST, 1024) for setting in costly)
