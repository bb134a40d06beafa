from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from cluster.errors import ClusterError
from cluster.ray_session import _runtime_env, check_address
from tests.end_to_end.headrace import ROOT, environment

LOCAL = """
import json, psutil
from cluster.ray_session import ray_session
before = psutil.Process().children(recursive=True)
with ray_session(None, 1):
    started = psutil.Process().children(recursive=True)
    commands = [" ".join(process.cmdline()) for process in started]
gone, left = psutil.wait_procs(started, timeout=30)
print(json.dumps({"commands": commands, "left": [" ".join(process.cmdline()) for process in left]}))
"""


@pytest.mark.parametrize("address", ["foo", "ray://host:1", "host:", ":1"])
def test_address_malformed_is_refused_with_its_form(address: str) -> None:
    with pytest.raises(ClusterError, match="must be HOST:PORT"):
        check_address(address)


def test_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match="nothing answers there"):
            check_address(address)


def test_runtime_environment_within_a_job_is_the_job_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses a driver that names packages where its job has named them."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert "py_modules" in _runtime_env("head:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert _runtime_env("head:6379") == {}


@pytest.mark.slow
def test_local_ray_starts_what_a_command_needs_alone_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCAL], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    commands = " ".join(answer["commands"])
    assert "gcs_server" in commands
    assert "raylet" in commands
    for needless in ("monitor.py", "dashboard/dashboard.py"):
        assert needless not in commands
    assert answer["left"] == []
