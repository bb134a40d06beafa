"""Starts the ranks of a process group as processes of their own, and waits for them with a deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_world(module: str, job_file: Path, job: dict[str, Any], deadline_seconds: float = 100) -> dict[str, Any]:
    """Run `python -m MODULE JOB RANK` for each rank of `job["world_size"]`; rank 0's answers.

    Any rank that does not exit with 0 fails the test with rank 0's log.
    """
    job_file.write_text(json.dumps(job))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    processes = []
    for rank in range(job["world_size"]):
        with job_file.with_suffix(f".rank{rank}.log").open("wb") as log:
            command = [sys.executable, "-m", module, str(job_file), str(rank)]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    try:
        codes = [process.wait(timeout=deadline_seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * len(codes), job_file.with_suffix(".rank0.log").read_text()[-4000:]
    answers: dict[str, Any] = json.loads(job_file.with_suffix(".answer.json").read_text())
    return answers
