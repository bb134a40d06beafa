"""Kills of a fake launcher's ranks, and a job that ends by itself: as a process of its own, which ends all below it.

Started by `test_fault_jobs.py` as `python -m tests.benchmarks.fault_job FOLDER`; prints what it saw as JSON.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.jobs import Job, JobFailedError, Place, kill_within_a_step, running
from benchmarks.faults.steps import recovery
from benchmarks.faults.storm import do
from benchmarks.faults.trace import CUT_SHARD, Failure
from benchmarks.harness.processes import take_charge

LAUNCHER = Path(__file__).parent / "fake_launcher.py"
SECONDS = 60.0


def kills(place: Place) -> dict[str, Any]:
    """Two kills, and a shard that is cut."""
    command = [sys.executable, str(LAUNCHER), json.dumps({"out": str(place.out)})]
    found = []
    with running(command, place, Job) as job:
        job.wait_for_step(4, SECONDS)
        for seed in range(2):
            killed, usual = kill_within_a_step(job, random.Random(seed), (2, 9), SECONDS)
            one = job.wait_for(lambda at=killed, step=usual: recovery(job.steps(), at, step), "a new step", SECONDS)
            found.append(asdict(one))
        cut = do(job, Failure(0.0, CUT_SHARD, 5), SECONDS)
        attempts = len({step.attempt for step in job.steps()})
        ranks = [job.wait_for(lambda of=rank: job.rank_pid(of), f"rank {rank}", SECONDS) for rank in range(2)]
        pids = [*ranks, int((place.out / "helper").read_text())]
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    return {"kills": found, "attempts": attempts, "cut": cut, "pids": pids, "left": left}


def failure(place: Place) -> str:
    """What is said of a job that ends before its first step."""
    with running([sys.executable, "-c", "import sys; sys.exit('no such peer')"], place, Job) as job:
        try:
            job.hit(0, signal.SIGKILL, SECONDS)
        except JobFailedError as error:
            return str(error)
    return "nothing"


def main() -> None:
    take_charge()
    folder = Path(sys.argv[1])
    place = Place(folder / "out", folder / "data", folder / "arrays", folder / "mlflow.db")
    place.out.mkdir()
    place.arrays.mkdir()
    for number in range(2):
        (place.arrays / f"train-0000{number}.npy").write_bytes(bytes(100))
    seen = kills(place)
    sizes = [path.stat().st_size for path in sorted(place.arrays.iterdir())]
    print(json.dumps({**seen, "sizes": sizes, "failure": failure(place)}))  # noqa: T201


if __name__ == "__main__":
    main()
