"""Separate hosts on one machine: network namespaces joined by veth to a switch in a namespace of its own.

Each host has a network of its own, in which only the others are, and its own /dev/shm; the file system is shared, as a
mounted one would be, but for folders of which each host has its own. It needs root.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.headrace import ROOT, environment, wait_until

SUBNET = "10.77.0"
HEAD_PORT = 6379
START_SECONDS = 240


def ip(*words: str) -> None:
    """Run `ip`; CalledProcessError, with what it says, where it refuses."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


@dataclass
class Host:
    """One host. address: where the others reach it; own: folders of which it sees nothing but its own files, until it
    ends; processes: those started on it, which end with it."""

    name: str
    link: str  # its end at the switch, in the switch's namespace
    switch: str
    address: str
    known: Path  # the names of all hosts, as in /etc/hosts
    environment: dict[str, str]
    own: list[Path] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    keeper: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
        """Start a process on this host, in a session of its own."""
        if self.keeper is None:
            self.keeper = self._keep()
        inside = ["nsenter", f"--target={self.keeper.pid}", "--mount", "--uts", "--net", f"--wdns={ROOT}"]
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*inside, *map(str, words)], env=self.environment, stdout=file, stderr=file, start_new_session=True
            )
        self.processes.append(process)
        return process

    def _keep(self) -> subprocess.Popen[bytes]:
        """A process that keeps what the host mounts and its name, until the host ends."""
        mounts = [f"mount -t tmpfs tmpfs {folder}" for folder in (Path("/dev/shm"), *self.own)]
        names = [
            "mount --bind /dev/null /etc/resolv.conf",
            f"mount --bind {self.known} /etc/hosts",
            f"hostname {self.name}",
        ]
        made = " && ".join([*mounts, *names, "echo made", "exec sleep infinity"])
        words = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c", made]
        keeper = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"made\n"
        self.processes.append(keeper)
        return keeper

    def pids(self) -> list[int]:
        """All processes of this host."""
        told = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=30).stdout
        return [int(line) for line in told.split()]

    def cut_off(self) -> None:
        """Pull its cable: nothing that it sends arrives, and nothing says so."""
        ip("-n", self.switch, "link", "set", self.link, "down")

    def join(self) -> None:
        """Put the cable back."""
        ip("-n", self.switch, "link", "set", self.link, "up")

    def end(self) -> None:
        """Kill what runs there."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.processes:
            process.wait(timeout=30)


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """So many hosts, each of which reaches the others and nothing else."""
    mark = secrets.token_hex(2)
    switch = f"hr{mark}sw"
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray/auth_token").write_text(secrets.token_hex(16))
    shared = {**environment(), "HOME": str(home), "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        _make_namespace(switch, stack)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        known, made = folder / "hosts", []
        lines = [f"{SUBNET}.{number} hr{mark}h{number}\n" for number in range(1, count + 1)]
        known.write_text("127.0.0.1 localhost\n" + "".join(lines))
        for number in range(1, count + 1):
            host = Host(f"hr{mark}h{number}", f"hr{mark}v{number}", switch, f"{SUBNET}.{number}", known, shared)
            _make_namespace(host.name, stack)
            stack.callback(host.end)
            _plug_in(host)
            made.append(host)
        yield made


def _make_namespace(name: str, stack: ExitStack) -> None:
    ip("netns", "add", name)
    stack.callback(ip, "netns", "del", name)
    ip("-n", name, "link", "set", "lo", "up")


def _plug_in(host: Host) -> None:
    ip("link", "add", host.link, "netns", host.switch, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    ip("-n", host.switch, "link", "set", host.link, "master", "bridge")
    ip("-n", host.switch, "link", "set", host.link, "up")
    ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
    ip("-n", host.name, "link", "set", "eth0", "up")


def start_ray(cluster: Sequence[Host], folder: Path, log: Path) -> str:
    """A head without CPUs on the first host, a node with one on each of the others; the head's address.

    folder: where each host keeps what Ray keeps; its path must be short, since sockets lie there.
    """
    for host in cluster:
        host.own.append(folder)
    address = f"{cluster[0].address}:{HEAD_PORT}"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    head, *nodes = cluster
    first = ["--head", f"--port={HEAD_PORT}", "--include-dashboard=false", "--num-cpus=0"]
    head.start([*ray, *first, f"--node-ip-address={head.address}", f"--temp-dir={folder}"], log)
    wait_until(lambda: "Ray runtime started" in log.read_text(), "the head", START_SECONDS)
    for node in nodes:
        node.start([*ray, f"--address={address}", "--num-cpus=1", f"--node-ip-address={node.address}"], log)
    wait_until(lambda: log.read_text().count("Ray runtime started") == len(cluster), "the nodes", START_SECONDS)
    return address
