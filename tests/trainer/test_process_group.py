"""Every group of a rank has the time-out of the run: also those that DeepSpeed makes without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.worlds import run_jobs

pytestmark = pytest.mark.slow

STAGES = [0, 1, 2, 3]
SECONDS = 3.0


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
