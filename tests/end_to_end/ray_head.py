"""A Ray head as `ray start --head` makes it, with its job server, on loopback ports of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.headrace import environment, wait_until

MARK = "HEADRACE_TEST_CLUSTER"
OBJECT_STORE_BYTES = 80 << 20


@dataclass(frozen=True)
class Head:
    """A cluster: the job server's URL, the head's HOST:PORT, and what all of its processes inherit."""

    url: str
    address: str
    environment: dict[str, str]
    temp_dir: Path

    def add_node(self, cpus: int) -> None:
        """One more raylet, on this machine, with a folder of its own: each takes away packages that it is done with."""
        folder = self.temp_dir / f"node-{uuid.uuid4().hex[:4]}"
        self._start(
            [
                f"--temp-dir={folder}",
                "--address",
                self.address,
                "--num-cpus",
                str(cpus),
                f"--dashboard-agent-listen-port={free_ports(1)[0]}",
            ]
        )

    def _start(self, words: list[str]) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        fixed = ["--object-store-memory", str(OBJECT_STORE_BYTES), "--num-gpus=0", "--disable-usage-stats"]
        fixed += ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
        command = [ray, "start", *fixed, *words]
        done = subprocess.run(command, env=self.environment, cwd="/", capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


@contextmanager
def ray_head(cpus: int) -> Iterator[Head]:
    """A head with so many CPUs; every process that descends from it ends with the block.

    Its PATH has no Python of ours, and no package of ours is on its search path: jobs bring their own.
    """
    temp_dir = Path(tempfile.mkdtemp(prefix="hr-"))  # short: Ray's sockets have long names
    head_port, client_port, dashboard_port, agent_port = free_ports(4)
    mark = uuid.uuid4().hex
    kept = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    inherited = {**kept, "PATH": "/usr/bin:/bin", "RAY_AUTH_MODE": "disabled", MARK: mark}
    head = Head(f"http://127.0.0.1:{dashboard_port}", f"127.0.0.1:{head_port}", inherited, temp_dir)
    words = ["--head", f"--port={head_port}", f"--ray-client-server-port={client_port}", f"--num-cpus={cpus}"]
    words += [f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1", f"--temp-dir={temp_dir / 'head'}"]
    words += [f"--dashboard-agent-listen-port={agent_port}"]
    try:
        head._start(words)
        yield head
    finally:
        wait_until(lambda: not _kill_all(mark), "the end of the cluster's processes", deadline_seconds=60)
        shutil.rmtree(temp_dir, ignore_errors=True)


def _kill_all(mark: str) -> bool:
    """Kill whatever has inherited the mark; whether there was something."""
    sign, found = f"{MARK}={mark}".encode(), False
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if sign in (path / "environ").read_bytes().split(b"\0"):
                found = True
                os.kill(int(path.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            continue
    return found
