"""Gangs for tests: supervisors in threads of this process, or each in a process of its own."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.spec import GangFailed, GangSpec, Outcome
from cluster.supervisor import Address, supervise

DEADLINE_SECONDS = 20.0


def make_spec(out_dir: Path, steps: int, faults: list[dict[str, Any]] | None = None, **limits: Any) -> GangSpec:
    run_spec = {"out_dir": str(out_dir), "steps": steps, "faults": faults or []}
    run_spec |= {name: limits.pop(name) for name in ("pace_seconds", "eval_interval") if name in limits}
    entry = "tests.cluster.fake_rank"
    return GangSpec(name="mill", out_dir=str(out_dir), run_spec=run_spec, token="secret", entry=entry, **limits)


def run_in_threads(spec: GangSpec, world_size: int) -> list[Outcome | GangFailed]:
    """Run a gang to its end; how each supervisor ended, by rank."""
    results: dict[int, Outcome | GangFailed] = {}
    known = threading.Event()
    addresses: list[Address] = []

    def share(address: Address | None) -> Address:
        if address is not None:
            addresses.append(address)
            known.set()
        assert known.wait(DEADLINE_SECONDS)
        return addresses[0]

    def run(rank: int) -> None:
        try:
            results[rank] = supervise(spec, rank, world_size, share_address=share, node=f"node{rank}")
        except GangFailed as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    return [results[rank] for rank in range(world_size)]


def wait_until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> float:
    """Poll until `condition` holds; the seconds that it took. AssertionError at the deadline."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "deadline passed"
        time.sleep(0.01)
    return time.monotonic() - started


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def start_process(spec: GangSpec, rank: int, world_size: int, raylet_pid: int | None = None) -> subprocess.Popen[bytes]:
    """Start one supervisor; its end is written to OUT_DIR/end-RANK.json."""
    arguments = json.dumps([spec.to_dict(), rank, world_size, raylet_pid])
    return subprocess.Popen([sys.executable, "-m", "tests.cluster.gang_process", arguments])


def _main(arguments: str) -> None:
    values, rank, world_size, raylet_pid = json.loads(arguments)
    spec = GangSpec.from_dict(values)
    address_file = spec.out_path / "address"

    def share(address: Address | None) -> Address:
        if address is not None:
            partial = address_file.with_suffix(".partial")
            partial.write_text(json.dumps(address))
            partial.replace(address_file)
        wait_until(address_file.exists)
        host, port = json.loads(address_file.read_text())
        return host, port

    try:
        outcome = supervise(spec, rank, world_size, share_address=share, node=f"node{rank}", raylet_pid=raylet_pid)
        end = {"status": outcome.status}
    except GangFailed as error:
        end = {"status": "failed", "kind": error.diagnosis.kind, "text": str(error)}
    (spec.out_path / f"end-{rank}.json").write_text(json.dumps(end))


if __name__ == "__main__":
    _main(sys.argv[1])
