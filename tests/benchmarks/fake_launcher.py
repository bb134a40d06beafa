"""A launcher of two ranks without torch: rank 0 logs steps, and when one ends both go on from a multiple of three.

`python fake_launcher.py JSON` as the peers' scripts. A helper in a session of its own outlives it, as servers do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

STEP_SECONDS = 0.02
SAVE_EVERY = 3


def rank(asked: dict[str, str], number: int) -> None:
    from benchmarks.faults.peers.training import StepLog, announce

    announce(asked, number)
    logged, log = Path(asked["out"]) / "steps.log", StepLog(asked, number)
    lines = logged.read_text().splitlines() if logged.exists() else []
    step = int(lines[-1].split()[0]) // SAVE_EVERY * SAVE_EVERY if lines else 0
    while True:
        time.sleep(STEP_SECONDS)
        step += 1
        log.write(step)


def launch(text: str) -> None:
    helper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (Path(json.loads(text)["out"]) / "helper").write_text(str(helper.pid))
    while True:
        ranks = [subprocess.Popen([sys.executable, __file__, str(number), text]) for number in range(2)]
        while all(one.poll() is None for one in ranks):
            time.sleep(STEP_SECONDS / 2)
        for one in ranks:
            one.kill()
            one.wait()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        rank(json.loads(sys.argv[2]), int(sys.argv[1]))
    else:
        launch(sys.argv[1])
