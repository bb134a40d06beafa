"""How long a killed rank costs: the demo's model on two ranks, SIGKILL at steps drawn from a seed.

`python -m benchmarks.recovery` starts the run, kills, and prints seconds from the signal to the next completed step
and to the next step that was new.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

from tests.end_to_end.headrace import ROOT, newest_step, pids_titled, started, steps, wait_until


def one_kill(out_dir: Path, name: str, generator: random.Random) -> tuple[float, float, int]:
    """Kill a rank a few steps from now; seconds to the next step, to the next new step, and steps run twice."""
    target = newest_step(out_dir) + generator.randint(2, 9)
    wait_until(lambda: newest_step(out_dir) >= target, f"step {target}")
    [rank] = pids_titled(f"headrace: rank {generator.randint(0, 1)}/2 of {name}")
    os.kill(rank, signal.SIGKILL)
    killed, last = time.time(), steps(out_dir)[-1]
    attempt, reached = last["attempt"], last["step"]
    wait_until(lambda: steps(out_dir)[-1]["attempt"] > attempt and newest_step(out_dir) > reached, "a new step")
    after = [record for record in steps(out_dir) if record["attempt"] > attempt]
    first_new = next(record for record in after if record["step"] > reached)
    return after[0]["time"] - killed, first_new["time"] - killed, first_new["step"] - after[0]["step"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        out_dir = Path(folder) / "runs/recovery"
        # The name and the checkpoint interval aside, this is the demo.
        changes = [f"out_dir={out_dir}", "name=recovery", "cluster.max_failures=100"]
        words = [word for change in changes for word in ("--set", change)]
        with started("train", ROOT / "recipes/demo.yaml", *words, log=Path(folder) / "log") as driver:
            wait_until(lambda: newest_step(out_dir) >= 3, "the first steps", 120)
            kills = [one_kill(out_dir, "recovery", generator) for _ in range(options.kills)]
            driver.send_signal(signal.SIGTERM)
            driver.wait(60)
    next_step, new_step, repeated = zip(*kills, strict=True)
    print("| from SIGKILL of a rank | median s | least to most |\n|---|---|---|")  # noqa: T201
    for name, values in (("to the next step", next_step), ("to the next new step", new_step)):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")  # noqa: T201
    print(f"\n{len(kills)} kills, seed {options.seed}; steps run twice: {list(repeated)}")  # noqa: T201


if __name__ == "__main__":
    main()
