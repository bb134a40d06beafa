"""Which keepers meet, where some are late or cannot start; Ray is played."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from cluster.snapshot_keeper_actor import SnapshotKeepers

HERE = ("127.0.0.1", 7)


class PlayedActor:
    """Its methods are called at once; `ray.get` gives or raises its answer, once there is one."""

    def __init__(self, address: Any) -> None:
        self.answer = address
        self.met: list[Any] = []
        self.address = self.meet = self
        self.stay = PlayedStay(self)
        self.killed = False

    def remote(self, *told: Any) -> PlayedActor:
        self.met += told
        return self


class PlayedStay:
    """The call that ends only with its actor, by what ended that."""

    def __init__(self, actor: PlayedActor) -> None:
        self._actor = actor

    @property
    def answer(self) -> Exception | None:
        return self._actor.answer if isinstance(self._actor.answer, Exception) else None

    def remote(self) -> PlayedStay:
        return self


class PlayedRay:
    """A cluster of as many nodes as there are actors, by name."""

    def __init__(self, **answers: Any) -> None:
        self.actors = {node: PlayedActor(answer) for node, answer in answers.items()}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": True} for node in self.actors]

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert len(calls) == num_returns > 0
        assert timeout == 0  # the driver's loop waits for nobody
        answered = [call for call in calls if call.answer is not None]
        return answered, [call for call in calls if call not in answered]

    def get(self, call: PlayedActor | PlayedStay, timeout: float) -> Any:
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


def test_keepers_all_meet_once(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=HERE, b=HERE)
    keepers = keepers_of(played, monkeypatch)
    for _ in range(3):
        keepers.cover_nodes()
    assert [actor.met for actor in played.actors.values()] == [[{"a": HERE, "b": HERE}]] * 2


def test_keeper_that_starts_late_meets_the_others_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=HERE, b=None)
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    assert (played.actors["a"].met, played.actors["b"].met, keepers.nodes) == ([{"a": HERE}], [], ["a"])
    played.actors["b"].answer = HERE
    keepers.look()
    both = {"a": HERE, "b": HERE}
    assert (played.actors["a"].met, played.actors["b"].met) == ([{"a": HERE}, both], [both])


def test_node_that_joins_gets_a_keeper_that_meets_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=HERE)
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    played.actors["b"] = PlayedActor(HERE)
    keepers.cover_nodes()
    assert played.actors["a"].met[-1] == played.actors["b"].met[-1] == {"a": HERE, "b": HERE}


def test_node_that_does_not_answer_keeps_its_keeper_and_is_met_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=HERE, b=HERE)
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    keepers.cover_nodes(without=["b"])
    assert played.actors["a"].met[-1] == {"a": HERE}
    assert not played.actors["b"].killed  # it may hold what nobody else has
    keepers.cover_nodes()
    assert played.actors["a"].met[-1] == {"a": HERE, "b": HERE}


def test_keeper_of_a_node_that_is_gone_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedRay(a=HERE, b=HERE)
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    gone = played.actors.pop("b")
    keepers.cover_nodes()
    assert gone.killed
    assert played.actors["a"].met[-1] == {"a": HERE}


def test_keeper_that_is_cut_off_stays(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    played = PlayedRay(a=HERE, b=HERE)
    keepers = keepers_of(played, monkeypatch)
    keepers.cover_nodes()
    played.actors["b"].answer = ActorUnavailableError("cut off", None)
    keepers.cover_nodes()
    assert keepers.nodes == ["a", "b"]
    assert "node b does not answer" in caplog.text


def test_keeper_that_dies_again_and_again_is_replaced_so_often_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    played = PlayedRay(a=HERE, b=ActorDiedError())
    keepers = keepers_of(played, monkeypatch)
    started: list[str] = []
    monkeypatch.setattr(keepers, "_start", lambda node: started.append(node) or played.actors[node])
    for _ in range(5):
        keepers.cover_nodes()
    assert played.actors["a"].met == [{"a": HERE}]
    assert keepers.nodes == ["a"]
    assert started == ["a", "b", "b", "b"]
    assert "node b goes without a keeper" in caplog.text
