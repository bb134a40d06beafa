"""Nodes started by hand, as `cluster/deploy/by-hand.md` says: two on this machine, with a token."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.headrace import command, environment, run_file, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def with_token(home: Path) -> dict[str, str]:
    """The environment of a machine whose user has the token that lies in `home`."""
    more = {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_agent_register_timeout_ms": "100000"}
    return {**environment(), **more}


@contextmanager
def node(*options: str, home: Path, log: Path) -> Iterator[None]:
    """A node until the block ends; its own process ends what it started."""
    words = [RAY, "start", *options, "--num-cpus", "1", "--disable-usage-stats", "--block"]
    with log.open("wb") as file:
        process = subprocess.Popen(words, env=with_token(home), stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def two_nodes(home: Path, logs: Path, ray_folder: Path) -> Iterator[str]:
    """The address of their head."""
    port = free_port()
    head = ("--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--include-dashboard", "false")
    with ExitStack() as stack:
        stack.enter_context(node(*head, "--temp-dir", str(ray_folder), home=home, log=logs / "head.log"))
        wait_until(lambda: listens(port), "the head listens", 120)
        stack.enter_context(node("--address", f"127.0.0.1:{port}", home=home, log=logs / "worker.log"))
        wait_until(lambda: "Ray runtime started" in (logs / "worker.log").read_text(), "the worker joined", 120)
        yield f"127.0.0.1:{port}"


def test_nodes_started_by_hand_are_found_fit_with_the_token_and_refuse_who_has_none(tmp_path: Path) -> None:
    home, stranger = tmp_path / "home", tmp_path / "stranger"
    home.mkdir()
    stranger.mkdir()
    made = subprocess.run([RAY, "get-auth-token", "--generate"], env=with_token(home), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    token = home / ".ray/auth_token"
    token.chmod(0o644)
    file = run_file(tmp_path, "mill")
    # Names of sockets must be short.
    with (
        tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as folder,
        two_nodes(home, tmp_path, Path(folder)) as address,
    ):
        words = command("doctor", file, "--address", address, "--json")
        done = subprocess.run(words, env=with_token(home), capture_output=True, text=True, timeout=300)
        without = {key: value for key, value in with_token(stranger).items() if key != "RAY_AUTH_MODE"}
        refused = subprocess.run(words, env=without, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["nodes"]) == 2
    found = {finding["check"]: finding for finding in answer["findings"]}
    assert (found["access"]["level"], found["access"]["found"]) == ("ok", "the cluster asks for a token")
    assert token.stat().st_mode & 0o077 == 0
    assert refused.returncode != 0
    assert "token" in refused.stderr
