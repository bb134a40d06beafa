"""Who may use a Ray."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import grpc
import pytest

from cluster.access import asks_for_token, is_loopback, keep_token_private, loopback_only, make_token, warn_if_open
from tests.cluster.head_node import head_node


@pytest.mark.parametrize(
    ("refusal", "asks"),
    [(grpc.StatusCode.UNAUTHENTICATED, True), (grpc.StatusCode.UNIMPLEMENTED, False), (None, False)],
)
def test_cluster_asks_for_a_token_only_if_it_refuses_who_shows_none(
    refusal: grpc.StatusCode | None, asks: bool
) -> None:
    with head_node(refusal) as address:
        assert asks_for_token(address) is asks


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:6379", True),
        ("127.5.0.1:1", True),
        ("[::1]:6379", True),
        ("localhost:6379", True),
        ("10.0.0.1:6379", False),
        ("head.internal:6379", False),
    ],
)
def test_loopback_is_told_from_what_others_reach(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(("asks", "warnings"), [(False, 1), (True, 0)])
def test_cluster_that_anyone_may_use_is_warned_of(
    asks: bool, warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.access.asks_for_token", lambda address: asks)
    with caplog.at_level(logging.WARNING):
        warn_if_open("10.0.0.1:6379")
    assert [("10.0.0.1:6379 asks for no token" in text) for text in caplog.messages] == [True] * warnings


def test_cluster_on_this_machine_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_open("127.0.0.1:1")  # where nothing answers
    assert caplog.messages == []


def test_token_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / ".ray/auth_token"
    make_token(path)
    token = path.read_text()
    assert len(bytes.fromhex(token)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    make_token(path)
    assert path.read_text() == token
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_TOKEN", "x" * 32), ("RAY_AUTH_MODE", "disabled")])
def test_token_is_not_made_where_the_environment_says_better(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    make_token(tmp_path / "auth_token")
    assert not (tmp_path / "auth_token").exists()


def test_tokens_file_is_taken_from_others(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    keep_token_private(path)  # none is no matter
    path.write_text("t")
    path.chmod(0o644)
    keep_token_private(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_ray_is_told_of_loopback_for_the_length_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, services

    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    with loopback_only():
        assert services.get_node_ip_address() == "127.0.0.1"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert ray_constants.ENABLE_RAY_CLUSTER is True
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
