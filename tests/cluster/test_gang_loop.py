"""The driver's loop over gangs that are played, on a cluster that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

import cluster.gang_loop
from cluster.capacity import HeadGoneError
from cluster.driver_cord import Cord
from cluster.gang_folder import GangFolder, Place
from cluster.gang_loop import GangLoop
from cluster.restarts import Finish, GangEnded, GiveUp, Limits, Start
from cluster.settings import Resources
from cluster.snapshot_keeper_actor import SnapshotKeepers
from cluster.spec import GangSpec
from tests.end_to_end.headrace import events, wait_until
from trainer.attempts import take_attempt
from trainer.stop import ask_to_stop, is_to_make_way, stop_mark

pytestmark = pytest.mark.timeout(60)

RESOURCES = Resources(workers=2, min_workers=1, gpus_per_worker=0, cpus_per_worker=1, threads=1)
LIMITS = Limits(min_workers=1, max_workers=2, max_failures=3, max_preemptions=3, wait_seconds=30.0)

Gang = Callable[[Start], GangEnded]


class PlayedKeepers:
    """Notes for which nodes keepers were asked, and how they ended."""

    def __init__(self) -> None:
        self.without: list[frozenset[str]] = []
        self.looks = 0
        self.end = ""

    def cover_nodes(self, without: frozenset[str]) -> None:
        self.without.append(without)

    def look(self) -> None:
        self.looks += 1

    def close(self) -> None:
        self.end = "closed"

    def let_go(self) -> None:
        self.end = "let go"


class Stage:
    """A cluster of one node with room for `free` workers, and gangs that are played one after the other."""

    def __init__(self, out_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out_dir = out_dir
        self.free = 2
        self.draining: frozenset[str] = frozenset()
        self.head: HeadGoneError | None = None  # what its address answers with
        self.gone_at = 0.0
        self.progress_seconds = 600.0
        self.starts: list[Start] = []
        self.cords: list[Cord] = []
        self.gangs: list[Gang] = []
        self.keepers = PlayedKeepers()
        self.unsure: frozenset[str] = frozenset()
        for name, stand_in in (
            ("check_head", self.check_head),
            ("survey", lambda per_worker: ({"node": self.free}, self.unsure)),
            ("draining_nodes", lambda: self.draining),
            ("run_gang", self.run_gang),
            ("POLL_SECONDS", 0.01),
            ("SURVEY_SECONDS", 0.02),
            ("REFUSED_HEAD_SECONDS", 0.2),
            ("SILENT_HEAD_SECONDS", 1.0),
        ):
            monkeypatch.setattr(cluster.gang_loop, name, stand_in)

    def check_head(self) -> None:
        if self.head is not None:
            raise self.head

    def run_gang(self, spec: GangSpec, start: Start, folder: GangFolder, cord: Cord, *others: object) -> GangEnded:
        take_attempt(self.out_dir)
        folder.write_place(Place(0, "node", "10.0.0.1", 1))
        self.starts.append(start)
        self.cords.append(cord)
        return self.gangs.pop(0)(start)

    def run(self, *gangs: Gang) -> Finish | GiveUp:
        self.gangs = list(gangs)
        keepers = cast(SnapshotKeepers, self.keepers)
        return GangLoop(self.out_dir, self.make_spec, LIMITS, RESOURCES, keepers, is_local=True).run(1000)

    def make_spec(self, max_failures: int) -> GangSpec:
        limit = self.progress_seconds
        return GangSpec("x", str(self.out_dir), {}, "secret", progress_seconds=limit, max_failures=max_failures)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def finish(start: Start) -> GangEnded:
    return GangEnded("finished", 0)


def lose(start: Start) -> GangEnded:
    return GangEnded("failed", 0, kind="loss", text="lost the supervisor of rank 1", node="node")


def test_loop_starts_gangs_until_one_finishes_and_tells_the_journal(stage: Stage) -> None:
    assert stage.run(lose, finish) == Finish("finished")
    assert [start.max_failures for start in stage.starts] == [3, 2]
    [told] = events(stage.out_dir, "gang_restart")
    assert (told["attempt"], told["kind"], told["world_size"]) == (1, "loss", 2)
    assert told["reason"] == "lost the supervisor of rank 1"
    assert told["after_seconds"] >= 1.0  # a pause, since there was no step between
    assert events(stage.out_dir, "resize") == []


def test_loop_beside_a_gang_covers_nodes_with_keepers(stage: Stage) -> None:
    def see_a_node_fall_silent(start: Start) -> GangEnded:
        assert stage.keepers.without  # before the gang was started
        stage.unsure = frozenset({"silent"})
        wait_until(lambda: frozenset({"silent"}) in stage.keepers.without, "the keepers to hear of it", 20)
        return finish(start)

    assert stage.run(see_a_node_fall_silent) == Finish("finished")
    assert stage.keepers.looks > 0
    assert stage.keepers.end == "closed"


def test_loop_ends_what_is_left_of_a_gang_before_the_next(stage: Stage) -> None:
    stage.run(lose, finish)
    assert len(stage.cords) == 2
    assert all(cord.closed for cord in stage.cords)


def test_loop_on_a_node_with_notice_asks_the_gang_for_its_place_and_goes_on_with_what_fits(stage: Stage) -> None:
    def make_way(start: Start) -> GangEnded:
        stage.draining = frozenset({"node"})
        wait_until(lambda: is_to_make_way(stage.out_dir), "the wish for the place", deadline_seconds=20)
        stage.draining, stage.free = frozenset(), 1
        return GangEnded("stopped", 0)

    assert stage.run(make_way, finish) == Finish("finished")
    assert [start.workers for start in stage.starts] == [2, 1]
    assert not stop_mark(stage.out_dir).exists()
    [resize] = events(stage.out_dir, "resize")
    assert (resize["from_world"], resize["to_world"]) == (2, 1)
    assert events(stage.out_dir, "gang_restart")[0]["kind"] == "made_way"


def test_loop_that_is_asked_to_stop_while_the_gang_makes_way_starts_no_other(stage: Stage) -> None:
    def make_way(start: Start) -> GangEnded:
        stage.draining = frozenset({"node"})
        wait_until(lambda: is_to_make_way(stage.out_dir), "the wish for the place", deadline_seconds=20)
        ask_to_stop(stage.out_dir)
        return GangEnded("stopped", 0)

    assert stage.run(make_way) == Finish("stopped")


def test_loop_that_waits_for_room_is_stopped_at_once(stage: Stage) -> None:
    stage.free = 0
    ask_to_stop(stage.out_dir)
    assert stage.run() == Finish("stopped")


def run_with_gang_that_hangs(stage: Stage, begin: Callable[[], None]) -> Finish | GiveUp:
    never = threading.Event()

    def hang(start: Start) -> GangEnded:
        begin()
        never.wait(50)
        return finish(start)

    try:
        return stage.run(hang)
    finally:
        never.set()


@pytest.mark.parametrize(("refused", "seconds"), [(True, 0.2), (False, 1.0)])
def test_loop_whose_head_is_gone_lets_go_of_the_gang_later_if_it_is_only_silent(
    stage: Stage, refused: bool, seconds: float
) -> None:
    def lose_head() -> None:
        stage.head, stage.gone_at = HeadGoneError("the head is gone", refused), time.monotonic()

    end = run_with_gang_that_hangs(stage, lose_head)
    assert isinstance(end, GiveUp)
    assert end.kind == "head"
    assert time.monotonic() - stage.gone_at >= seconds
    assert stage.cords[0].closed


def test_loop_gives_up_on_a_stop_that_no_rank_answers_within_twice_the_limit_of_progress(stage: Stage) -> None:
    stage.progress_seconds = 0.3
    began = time.monotonic()
    end = run_with_gang_that_hangs(stage, lambda: ask_to_stop(stage.out_dir))
    assert isinstance(end, GiveUp)
    assert (end.kind, "request to stop" in end.text) == ("infrastructure", True)
    assert time.monotonic() - began >= 0.6
