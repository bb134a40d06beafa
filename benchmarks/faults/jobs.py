"""A run of an arm that is under way: started, looked at, hit, and ended with all its processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.steps import Step, newest, step_seconds
from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.processes import POLL_SECONDS, below, end_all_below
from cluster.chaos.process_table import processes_of, read_titles

STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Place:
    """What an arm is given: an empty folder, the dataset (a copy that may be damaged), its tokens as arrays, and where
    Headrace's runs keep their MLflow store, which is made once."""

    out: Path
    dataset: Path
    arrays: Path
    store: Path


class JobFailedError(RuntimeError):
    """The arm ended by itself, or did not do in time what it is waited for; with the end of what it said."""


class Tail:
    """The lines that have been added to files since the last look."""

    def __init__(self, files: Callable[[], Sequence[Path]]) -> None:
        self._files = files
        self._offsets: dict[Path, int] = {}

    def lines(self) -> list[str]:
        """Whole new lines, file by file."""
        found: list[str] = []
        for path in self._files():
            offset = self._offsets.get(path, 0)
            if path.stat().st_size <= offset:
                continue
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[path] = offset + len(whole)
            found += whole.decode().splitlines()
        return found


class Job:
    """A peer's run: its step log, and its ranks by the numbers that they announce."""

    def __init__(self, place: Place, process: subprocess.Popen[bytes]) -> None:
        self.place, self._process = place, process
        self.events: list[dict[str, Any]] = []
        """Of Headrace's journal; peers have none."""
        self._steps: list[Step] = []
        self._tail = Tail(self._files)

    def steps(self) -> list[Step]:
        """All completed steps so far, in the order in which they were logged."""
        self._steps += self._parse(self._tail.lines())
        return self._steps

    def rank_pid(self, rank: int) -> int | None:
        """The process that is that rank now; None while there is none."""
        try:
            pid = int((self.place.out / "ranks" / str(rank)).read_text())
        except FileNotFoundError:
            return None
        return pid if pid in below(os.getpid()) else None

    def checkpoint_files(self) -> list[list[Path]]:
        """The files of each checkpoint that is whole, the newest last."""
        marks = sorted((self.place.out / "checkpoints").glob("*/.metadata"))
        return [[path for path in mark.parent.iterdir() if path.is_file() and path != mark] for mark in marks]

    def shards(self) -> list[Path]:
        """What it reads its data from."""
        return sorted(self.place.arrays.glob("train-*.npy"))

    def wait_for(
        self, condition: Callable[[], Any], what: str, seconds: float, poll_seconds: float = POLL_SECONDS
    ) -> Any:
        """The condition's first true value. Raises: JobFailedError at the deadline, or where the job has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            if self._process.poll() is not None:
                raise JobFailedError(f"ended with status {self._process.returncode} before {what}:\n{self._said()}")
            time.sleep(poll_seconds)
        raise JobFailedError(f"not within {seconds:.0f} s: {what}:\n{self._said()}")

    def wait_for_step(self, step: int, seconds: float, poll_seconds: float = POLL_SECONDS) -> None:
        """Until that step is completed."""
        self.wait_for(lambda: newest(self.steps()) >= step, f"step {step}", seconds, poll_seconds)

    def hit(self, rank: int, number: signal.Signals, seconds: float) -> float:
        """Signal a rank, once there is one; unix seconds at which it was."""
        while True:
            pid = self.wait_for(lambda: self.rank_pid(rank), f"a process of rank {rank}", seconds)
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # it ended meanwhile: the next one
                continue
            return time.time()

    def _files(self) -> list[Path]:
        path = self.place.out / "steps.log"
        return [path] if path.exists() else []

    def _parse(self, lines: Sequence[str]) -> Iterator[Step]:
        for line in lines:
            step, at, pid = line.split()
            yield Step(int(step), float(at), int(pid))

    def _said(self) -> str:
        return (self.place.out / "log").read_text(errors="replace")[-2000:]


class HeadraceJob(Job):
    """Headrace's run, by its journal and its processes' titles."""

    def rank_pid(self, rank: int) -> int | None:
        return next((pid for pid, number in self.own("rank") if number == rank), None)

    def own(self, role: str) -> list[tuple[int, int | None]]:
        """(process, rank) of this job's processes of that role; others' runs of the same name are not below us."""
        found = [one for one in processes_of(self.place.out.name, read_titles()) if one.role == role]
        ours = below(os.getpid()) if found else set()
        return [(one.pid, one.rank) for one in found if one.pid in ours]

    def checkpoint_files(self) -> list[list[Path]]:
        marks = sorted((self.place.out / "checkpoints").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        return [sorted(mark.parent.glob("*.safetensors")) for mark in marks]

    def shards(self) -> list[Path]:
        return sorted(self.place.dataset.glob("train-*.tar"))

    def _files(self) -> list[Path]:
        return sorted((self.place.out / "journal").glob("attempt-*.jsonl"))

    def _parse(self, lines: Sequence[str]) -> Iterator[Step]:
        for line in lines:
            record = json.loads(line)
            if "event" in record:
                self.events.append(record)
            else:
                yield Step(record["step"], record["time"], record["attempt"])


@contextmanager
def running(command: Sequence[str], place: Place, kind: type[Job]) -> Iterator[Job]:
    """The job while the block runs; afterwards none of its processes is left."""
    own = {**environment(), "GLOO_SOCKET_IFNAME": "lo"}
    with (place.out / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield kind(place, process)
    finally:
        try:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        finally:  # also where a signal cuts the wait short
            end_all_below(os.getpid(), owned=frozenset({process.pid}))
            process.wait()


def kill_within_a_step(
    job: Job, generator: random.Random, steps_ahead: tuple[int, int], seconds: float
) -> tuple[float, float]:
    """SIGKILL a rank drawn from the generator, at a moment drawn from it within one of the next steps.

    Returns unix seconds of the kill, and an undisturbed step's seconds.
    """
    target = newest(job.steps()) + generator.randint(*steps_ahead)
    job.wait_for_step(target, seconds)
    usual = step_seconds(job.steps())
    time.sleep(generator.random() * usual)
    return job.hit(generator.randrange(2), signal.SIGKILL, seconds), usual
