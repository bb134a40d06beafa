from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import TaskUnschedulableError

from cluster import shared_folder
from cluster.errors import ClusterError
from cluster.shared_folder import check_shared, read_token, refuse_blind_nodes


def test_nodes_that_read_the_token_are_let_pass() -> None:
    refuse_blind_nodes(Path("/runs"), "abc", {"10.0.0.1": "abc", "10.0.0.2": "abc"})


@pytest.mark.parametrize("found", [None, "of another folder"])
def test_nodes_that_do_not_see_the_folder_are_named(found: str | None) -> None:
    with pytest.raises(ClusterError, match=r"/runs: must be a folder that all nodes .* not seen by 10\.0\.0\.2"):
        refuse_blind_nodes(Path("/runs"), "abc", {"10.0.0.1": "abc", "10.0.0.2": found})


def test_token_of_a_folder_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_token(str(tmp_path / "absent")) is None
    (tmp_path / "token").write_text("abc")
    assert read_token(str(tmp_path / "token")) == "abc"


def test_addresses_of_object_stores_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "NodeID": f"{n}", "NodeManagerAddress": f"10.0.0.{n}"} for n in (1, 2)]
    monkeypatch.setattr(shared_folder.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(shared_folder.ray, "get", lambda *given, **options: pytest.fail("a node was asked"))
    check_shared(["s3://bucket/ds"])


class PlayedRay:
    """Two nodes; the second is lost once it is asked, and Ray knows of it or not."""

    def __init__(self, knows: bool) -> None:
        self._knows, self._was_asked = knows, False

    def nodes(self) -> list[dict[str, object]]:
        is_alive = not (self._was_asked and self._knows)
        return [
            {"Alive": n == 1 or is_alive, "NodeID": f"{n}" * 56, "NodeManagerAddress": f"10.0.0.{n}"} for n in (1, 2)
        ]

    def remote(self, **options: object) -> Callable[..., PlayedRay]:
        return lambda function: self

    def options(self, scheduling_strategy: Any) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda path: (scheduling_strategy.node_id, path))

    def get(self, asked: tuple[str, str], timeout: float) -> str | None:
        if asked[0] == "2" * 56:
            self._was_asked = True
            raise TaskUnschedulableError("the node does not exist any more")
        return read_token(asked[1])


def test_node_that_is_lost_while_it_is_asked_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "ray", PlayedRay(knows=True))
    check_shared([tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_node_that_lives_and_does_not_run_the_question_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "ray", PlayedRay(knows=False))
    with pytest.raises(TaskUnschedulableError):
        check_shared([tmp_path])
