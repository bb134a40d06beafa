"""What a run left behind, gathered when it has ended."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.chaos.process_table import processes_of, read_titles
from monitoring.journal import Record, read_records
from monitoring.runs import read_run_folder
from trainer.checkpoint.store import list_checkpoints, verify_checkpoint

LEFT_OVER_SECONDS = 5.0
"""So long may a run's processes take to end after its driver."""

Point = tuple[str, int, float]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: what is wrong with it, and the hashes of its ranks' files."""

    path: str
    step: int
    problems: tuple[str, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """All that a verdict on a run goes by.

    exit_status: the driver's, of its last start; points: metric, step and value as MLflow's own tables hold them, of
    training steps alone; left_over: titles of processes that outlived the driver; log_tail: the driver's last words.
    """

    exit_status: int | None
    records: tuple[Record, ...]
    points: tuple[Point, ...]
    checkpoints: tuple[Checkpoint, ...]
    left_over: tuple[str, ...] = ()
    log_tail: str = ""


def gather(out_dir: Path, database: Path, exit_status: int | None, log_tail: str, name: str) -> Evidence:
    """The evidence of the run of that name, whose driver has just ended."""
    left_over = wait_for_left_over(name, LEFT_OVER_SECONDS)
    started = (out_dir / "run.json").exists()
    return Evidence(
        exit_status=exit_status,
        records=tuple(read_records(out_dir)),
        points=read_points(database, read_run_folder(out_dir).run_id) if started and database.exists() else (),
        checkpoints=read_checkpoints(out_dir),
        left_over=left_over,
        log_tail=log_tail,
    )


def wait_for_left_over(name: str, seconds: float) -> tuple[str, ...]:
    """The titles of the run's processes that are still there after so many seconds; at once if none is."""
    deadline = time.monotonic() + seconds
    while True:
        titles = read_titles()
        left = tuple(titles[process.pid] for process in processes_of(name, titles))
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.1)


def read_points(database: Path, run_id: str) -> tuple[Point, ...]:
    """Every (metric, step, value) that MLflow's tables hold for a run, in the order of their steps."""
    query = (
        "select m.key, m.step, m.value from metrics m join tags t on t.run_uuid = m.run_uuid "
        "where t.key = 'headrace.run_id' and t.value = ? order by m.step, m.key"
    )
    connection = sqlite3.connect(database)
    try:
        return tuple(connection.execute(query, (run_id,)))
    finally:
        connection.close()


def read_checkpoints(out_dir: Path) -> tuple[Checkpoint, ...]:
    """Every checkpoint that counts, the oldest first, with every byte of it read."""
    return tuple(
        Checkpoint(
            path=entry.address,
            step=entry.step,
            problems=tuple(verify_checkpoint(entry.address)),
            hashes=tuple(file.digest for file in entry.manifest.files) if entry.manifest else (),
        )
        for entry in list_checkpoints(out_dir)
        if entry.is_believed
    )
