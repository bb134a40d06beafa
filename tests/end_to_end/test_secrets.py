"""Secrets of the environment stay there, and a run on one machine listens to that machine alone."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.end_to_end.headrace import command, environment, headrace, run_file, steps
from tests.end_to_end.listening import arguments, family, is_loopback, listeners

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MARK = "pl4nted5ecret"
PLANTED = {
    name: f"{MARK}{number}"
    for number, name in enumerate(
        [
            *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY", "HF_TOKEN"),
            *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD"),
            *("WANDB_API_KEY", "MY_OWN_SECRET"),
        ]
    )
}
LOOK_SECONDS = 0.5


@dataclass
class Done:
    """A run that has ended, and what was seen meanwhile."""

    folder: Path  # with corpus, run file, dataset, run, store
    home: Path
    ray: Path  # of Ray's sessions
    output: str
    listening: set[tuple[str, str]] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)  # what `ps` shows to all users

    @property
    def token(self) -> Path:
        return self.home / ".ray/auth_token"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder, home = tmp_path_factory.mktemp("secrets"), tmp_path_factory.mktemp("home")
    file = run_file(
        folder,
        "mill",
        train={"max_steps": 20, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3},
        checkpoint={"interval": 10},
    )
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as ray_folder:  # names of sockets must be short
        yield watch(file, Done(folder, home, Path(ray_folder), ""))


def watch(file: Path, done: Done) -> Done:
    """Run to the end, and look at the processes meanwhile."""
    own = {"HOME": str(done.home), "RAY_TMPDIR": str(done.ray), "RAY_AUTH_MODE": "token"}
    own["RAY_agent_register_timeout_ms"] = "100000"  # a machine may be busy
    log = done.home / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("run", file), env={**environment(), **PLANTED, **own}, cwd=done.folder, stdout=output, stderr=output
        )
        while process.poll() is None:
            pids = family(process.pid)
            done.listening |= listeners(pids)
            done.shown |= {arguments(pid) for pid in pids}
            try:
                process.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    done.output = log.read_text()
    assert process.returncode == 0, done.output
    return done


def forms(secret: str) -> list[bytes]:
    """A secret as it is, and within base64 at any place."""
    encoded = [base64.b64encode(b" " * shift + secret.encode()) for shift in range(3)]
    return [secret.encode(), *(text[4 : len(text) // 4 * 4 - 4] for text in encoded)]


def files_with(folder: Path, secret: str) -> list[Path]:
    """The files below a folder that hold a secret."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path for path in files if any(form in path.read_bytes() for form in forms(secret))]


def test_secret_is_found_wherever_it_is_planted(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"\0x" + MARK.encode())
    (tmp_path / "basic").write_bytes(base64.b64encode(f"me:{MARK}".encode()))
    (tmp_path / "other").write_text("nothing")
    assert {path.name for path in files_with(tmp_path, MARK)} == {"plain", "basic"}


def test_listening_socket_is_found_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert {address for address, _ in listeners([os.getpid()])} >= {"127.0.0.1"}
    with socket.create_server(("0.0.0.0", 0)):
        assert {address for address, _ in listeners([os.getpid()]) if not is_loopback(address)} == {"0.0.0.0"}


def test_secrets_of_the_environment_reach_no_file_no_log_and_no_output(done: Done) -> None:
    assert len(steps(done.folder / "runs/mill")) == 20
    looked_at = {path.name for path in done.folder.rglob("*")}
    assert {"run.yaml", "mlflow.db", "dataset.json", "attempt-0001.jsonl", "model.safetensors"} <= looked_at
    assert any(done.ray.rglob("raylet.out"))
    for folder in (done.folder, done.home, done.ray):
        assert files_with(folder, MARK) == []
    assert MARK not in done.output


def test_secrets_of_the_environment_are_in_no_processes_arguments(done: Done) -> None:
    assert any(text.startswith("headrace: rank") for text in done.shown)
    assert [text for text in done.shown if MARK in text] == []


def test_token_of_a_local_ray_is_its_owners_alone_and_stands_in_its_file_only(done: Done) -> None:
    token = done.token.read_text()
    assert len(token) >= 32
    assert done.token.stat().st_mode & 0o077 == 0
    assert files_with(done.home, token) == [done.token]
    for folder in (done.folder, done.ray):
        assert files_with(folder, token) == []
    assert token not in done.output
    assert [text for text in done.shown if token in text] == []


def test_run_on_one_machine_listens_to_that_machine_alone(done: Done) -> None:
    for program in ("gcs_server", "headrace: keeper", "headrace: rank"):
        assert any(program in text for _, text in done.listening), program
    assert {(address, text) for address, text in done.listening if not is_loopback(address)} == set()


def test_secret_in_the_run_file_is_refused_without_being_shown(tmp_path: Path) -> None:
    file = run_file(tmp_path, "mill", monitoring={"tracking_uri": f"http://me:{MARK}@host:5000"})
    refused = headrace("prepare", file)
    assert refused.returncode == 2
    assert "monitoring.tracking_uri: must hold no password" in refused.stderr
    assert "http://me:...@host:5000" in refused.stderr
    assert MARK not in refused.stdout + refused.stderr
    assert not (tmp_path / "runs").exists()
