"""What snapshots in memory cost: the demo's model on two nodes (both on this machine) with a snapshot at each step,
each copied to the other node, beside the same without snapshots.

`python -m benchmarks.snapshots` runs the two by turns and prints the median step, how far apart snapshots came to be,
and the keepers' CPU time per snapshot of a rank. Both nodes' work is done by this machine's cores, which on a real
cluster is each node's own.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.end_to_end.headrace import ROOT, headrace, newest_step, pids_titled, started, steps, wait_until
from tests.end_to_end.test_prepare import ray_cluster

WARM_STEPS = 5


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    ticks = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(value) for pair in ticks for value in pair) / os.sysconf("SC_CLK_TCK")


def one_run(folder: Path, name: str, address: str, interval: int, length: int) -> tuple[float, float]:
    """Median step seconds, and the keepers' CPU seconds per step, over `length` steps."""
    out_dir = folder / "runs" / name
    changes = [f"out_dir={out_dir}", f"data.dir={folder / 'data'}", f"name={name}", "checkpoint.interval=100000"]
    changes += [f"checkpoint.snapshot_interval={interval}", "eval.interval=100000", "cluster.workers=2"]
    words = [word for change in changes for word in ("--set", change)]
    command: list[Any] = ["train", ROOT / "recipes/demo.yaml", *words, "--address", address]
    with started(*command, log=folder / f"{name}.log") as driver:
        wait_until(lambda: newest_step(out_dir) >= WARM_STEPS, "the first steps", 300)
        keepers = pids_titled(f"headrace: keeper of {name}")
        before, first = cpu_seconds(keepers), newest_step(out_dir)
        wait_until(lambda: newest_step(out_dir) >= first + length, "the last step", 300)
        used, last = cpu_seconds(keepers) - before, newest_step(out_dir)
        driver.send_signal(signal.SIGTERM)
        driver.wait(120)
    times = [record["step_seconds"] for record in steps(out_dir) if first < record["step"] <= last]
    return statistics.median(times), used / (last - first)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = headrace("prepare", ROOT / "recipes/demo.yaml", "--set", f"data.dir={folder / 'data'}")
        assert prepared.returncode == 0, prepared.stderr
        results: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
        with ray_cluster(nodes=2) as cluster:
            for turn in range(options.turns):
                for interval, found in results.items():
                    found.append(one_run(folder, f"every-{interval}-{turn}", cluster.address, interval, options.steps))
    print("| snapshots | median step s (least to most) | keepers' CPU ms per step |\n|---|---|---|")  # noqa: T201
    for interval, found in results.items():
        seconds, cpu = zip(*found, strict=True)
        what = "each step, copied" if interval else "none"
        span = f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        print(f"| {what} | {span} | {1000 * statistics.median(cpu):.0f} |")  # noqa: T201


if __name__ == "__main__":
    main()
