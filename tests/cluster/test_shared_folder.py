from __future__ import annotations

from pathlib import Path

import pytest

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
