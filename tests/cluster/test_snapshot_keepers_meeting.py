"""Which keepers meet, where some are late or cannot start; Ray is played."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from cluster.snapshot_keeper_actor import SnapshotKeepers

HERE = ("127.0.0.1", 7)


class PlayedActor:
    """Its methods are called at once; what `address.remote()` gives is what `ray.get` then gives or raises."""

    def __init__(self, address: Any) -> None:
        self.answer = address
        self.met: list[Any] = []
        self.address = self.meet = self
        self.killed = False

    def remote(self, *told: Any) -> PlayedActor:
        self.met += told
        return self


class PlayedRay:
    """A cluster of as many nodes as there are actors, by name."""

    def __init__(self, **answers: Any) -> None:
        self.actors = {node: PlayedActor(answer) for node, answer in answers.items()}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": True} for node in self.actors]

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> None:
        assert len(calls) == num_returns > 0

    def get(self, call: PlayedActor, timeout: float) -> Any:
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def kill(self, actor: PlayedActor) -> None:
        actor.killed = True


def keepers_of(played: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> SnapshotKeepers:
    for name in ("nodes", "wait", "get", "kill"):
        monkeypatch.setattr(ray, name, getattr(played, name))
    keepers = SnapshotKeepers("mill", "secret", is_local=True)
    monkeypatch.setattr(keepers, "_start", played.actors.__getitem__)
    return keepers


def test_keepers_all_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=HERE, b=HERE)
    keepers_of(played, monkeypatch).cover_nodes()
    assert [actor.met for actor in played.actors.values()] == [[{"a": HERE, "b": HERE}]] * 2


def test_lone_keeper_is_told_at_once_that_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=GetTimeoutError())  # it has not started yet
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    assert (played.actors["a"].met, keepers.nodes) == ([{}], ["a"])


@pytest.mark.parametrize("trouble", [GetTimeoutError(), ActorUnavailableError("cut off", None)])
def test_keeper_that_is_late_meets_the_others_at_the_next_gang(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    played = PlayedRay(a=HERE, b=trouble)
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    assert played.actors["a"].met == played.actors["b"].met == [{"a": HERE}]
    assert "node b" in caplog.text
    played.actors["b"].answer = HERE
    keepers.cover_nodes()
    assert played.actors["a"].met == played.actors["b"].met == [{"a": HERE}, {"a": HERE, "b": HERE}]


def test_keeper_that_cannot_start_is_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    played = PlayedRay(a=HERE, b=ActorDiedError())
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    assert played.actors["a"].met == [{"a": HERE}]
    assert keepers.nodes == ["a"]
    assert played.actors["b"].killed
    assert "node b goes without a keeper" in caplog.text
