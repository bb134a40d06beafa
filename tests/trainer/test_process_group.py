"""Where ranks meet, and that every group has the time-out of the run: also those that DeepSpeed makes without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.worlds import run_jobs
from trainer.process_group import interface_of

STAGES = [0, 1, 2, 3]
SECONDS = 3.0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"store_host": "127.0.0.1"}, {"GLOO_SOCKET_IFNAME": "lo"}),
        ({"store_host": "10.0.0.1"}, {}),
        ({}, {}),
    ],
)
def test_process_group_of_one_machine_keeps_to_its_loopback(spec: dict[str, str], expected: dict[str, str]) -> None:
    assert interface_of(spec) == expected


@pytest.mark.slow
def test_process_group_all_groups_of_all_stages_have_the_time_out_and_keep_it(tmp_path: Path) -> None:
    job = {"world_size": 2, "stages": STAGES, "collective_seconds": SECONDS}
    [found] = run_jobs("tests.trainer.group_world", tmp_path, [job])
    assert sum(found[str(stage)]["groups"] for stage in STAGES) > 0  # DeepSpeed makes groups of its own
    for stage in STAGES:
        assert set(found[str(stage)]["timeouts"]) == {SECONDS}
    assert set(found["late"]) == {SECONDS}
    assert len(found["late"]) > len(found[str(STAGES[-1])]["timeouts"])
    for seconds in found["raised"]:
        assert SECONDS - 0.5 < seconds < 2 * SECONDS
