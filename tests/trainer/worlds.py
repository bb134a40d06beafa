"""Process groups for tests: jobs run one after the other, each on ranks that are forked from one preloaded process.

Imports take seconds, so they are done once. A job is a JSON file with `world_size`; its rank 0 writes the answer.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 110

RunRank = Callable[[Path, int], None]


def run_jobs(
    module: str, folder: Path, jobs: Sequence[dict[str, Any]], deadline_seconds: float = DEADLINE_SECONDS
) -> list[dict[str, Any]]:
    """Run the jobs under `python -m MODULE`, which calls `host`; their answers. Fails with the log at the deadline."""
    files = [folder / f"job-{index}.json" for index in range(len(jobs))]
    for file, job in zip(files, jobs, strict=True):
        file.write_text(json.dumps(job))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", module, *map(str, files)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(timeout=deadline_seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, (folder / "log").read_text()[-4000:]
    return [json.loads(file.with_suffix(".answer.json").read_text()) for file in files]


def host(run_rank: RunRank) -> int:
    """The main function of a module that `run_jobs` starts; its exit status."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    gc.freeze()  # DeepSpeed collects garbage over and over, 0.3 s each time with all the imported objects in it
    return int(not all(run_job(Path(argument), run_rank) for argument in sys.argv[1:]))


def answer(job_file: Path, value: dict[str, Any]) -> None:
    """Rank 0's answer to its job."""
    job_file.with_suffix(".answer.json").write_text(json.dumps(value))


def run_job(job_file: Path, run_rank: RunRank) -> bool:
    """Fork the job's ranks; whether all of them ended well."""
    context = multiprocessing.get_context("fork")
    size = json.loads(job_file.read_text())["world_size"]
    ranks = [context.Process(target=run_rank, args=(job_file, rank), daemon=True) for rank in range(size)]
    for process in ranks:
        process.start()
    # A rank whose peer died would wait for it for half an hour: the first failure ends the job.
    waiting = {process.sentinel: process for process in ranks}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting)):
            process = waiting.pop(sentinel)  # type: ignore[call-overload]
            process.join()
            if process.exitcode != 0:
                for other in waiting.values():
                    other.kill()
    return all(process.exitcode == 0 for process in ranks)
