"""A slow rank is named within 20 steps, and changes no number; ranks that get few shards or none wait for nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.headrace import events, run_file, steps, write_corpus
from tests.faults.rank_world import Start, run_files

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]

STEPS, SLOW_FROM = 30, 8
SLOW = {"kind": "slow", "rank": 1, "step": SLOW_FROM, "seconds": 0.3, "steps": 12}


def file_of(folder: Path, name: str, stage: int, **changes: Any) -> Path:
    settings = {"max_steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3}
    return run_file(folder, name, train={**settings, "zero": {"stage": stage}}, checkpoint={"interval": 100}, **changes)


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.long)])
def test_slow_rank_is_named_within_twenty_steps_and_losses_stay_exact(stage: int, tmp_path: Path) -> None:
    """At stage 3 the forward passes wait for each other, so that only what comes before them tells."""
    files = [file_of(tmp_path, name, stage) for name in ("clean", "slow")]
    answers = run_files(tmp_path / "jobs", [Start(files[0]), Start(files[1], [SLOW])])
    assert [answer["status"] for answer in answers] == [0, 0]
    clean, slow = tmp_path / "runs/clean", tmp_path / "runs/slow"
    named = next(event for event in events(slow, "slow_rank") if event["rank"] == 1)
    assert SLOW_FROM < named["step"] <= SLOW_FROM + 20
    assert named["seconds"] > 0.3
    assert named["seconds"] > 2 * named["others_seconds"]
    assert named["node"]
    [told] = events(slow, "rank_times")
    assert (told["step"], len(told["seconds"]), len(told["nodes"])) == (16, 2, 2)
    assert min(told["seconds"]) > 0.0
    assert [record["loss_hex"] for record in steps(slow)] == [record["loss_hex"] for record in steps(clean)]


@pytest.mark.long
def test_fewer_shards_than_ranks_train_level_and_see_the_batches_of_one_rank(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", files=1)
    settings = {"max_steps": 6, "global_batch_size": 8, "micro_batch_size": 1, "lr": 3e-3}
    files = {world: run_file(tmp_path, f"world-{world}", train=settings) for world in (1, 3)}
    answers = run_files(tmp_path / "jobs", [Start(file, world_size=world) for world, file in files.items()])
    assert [answer["status"] for answer in answers] == [0, 0]
    assert len(list((tmp_path / "data").glob("train-*.tar"))) == 1
    one, three = (steps(tmp_path / f"runs/world-{world}") for world in (1, 3))
    assert [record["sequence_hash"] for record in three] == [record["sequence_hash"] for record in one]
    assert three[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.1)  # dropout differs by rank
    assert [event["world_size"] for event in events(tmp_path / "runs/world-3", "start")] == [3]
