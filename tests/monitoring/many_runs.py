"""Many long runs, made fast: for what has to read hundreds of them."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from monitoring.journal import Record, attempt_path, encode
from monitoring.runs import RunFolder
from tests.monitoring.journals import START_TIME, end, evaluation, start, step

KINDS = 5  # settings that differ; the runs of one share a journal, by hard links, but for its settings
METRICS = ("loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "memory_bytes", "data_wait_seconds",
           "step_seconds", "sequence_hash")  # fmt: skip

_SETTINGS = 120  # parameters of a run


def settings(kind: int, seed: int) -> dict[str, Any]:
    """The parameters of a run, as its start tells them."""
    return {"train.lr": 0.001 * (kind + 1), "seed": seed, **{f"section.key{i}": i for i in range(_SETTINGS)}}


def records(kind: int, steps: int) -> Iterator[Record]:
    """A run's journal without its start."""
    noise = random.Random(kind)
    for number in range(1, steps + 1):
        loss = 4 + 5 / (1 + number / 100) + 0.1 * kind + 0.1 * noise.random()
        yield step(
            number, loss=loss, loss_hex=loss.hex(), step_seconds=0.4 + 0.1 * noise.random(), mfu=noise.random(),
            tokens_per_second=3000 + noise.random(), sequence_hash=f"{noise.getrandbits(64):016x}",
        )  # fmt: skip
        if number % 500 == 0:
            yield evaluation(number, loss)
    yield end(steps)


def make_folders(runs_dir: Path, runs: int, steps: int) -> None:
    """Folders of finished runs `run-000` and on; the first attempt's steps are the same file for all of a kind."""
    bodies = []
    for kind in range(KINDS):
        path = runs_dir / f"body-{kind}"
        path.write_bytes(b"".join(encode(record) for record in records(kind, steps)))
        bodies.append(path)
    for number in range(runs):
        kind, seed = number % KINDS, number // KINDS
        run = RunFolder(runs_dir / f"run-{number:03d}", f"id-{number}", f"run-{number:03d}", START_TIME)
        path = attempt_path(run.out_dir, 1)
        path.parent.mkdir(parents=True)
        identity = {"run_id": run.run_id, "name": run.name, "created": run.created}
        (run.out_dir / "run.json").write_text(json.dumps(identity))
        if number < KINDS:
            whole = encode(start(params=settings(kind, seed), max_steps=steps)) + bodies[kind].read_bytes()
            path.write_bytes(whole)
        else:
            os.link(attempt_path(runs_dir / f"run-{kind:03d}", 1), path)
    for body in bodies:
        body.unlink()


def fill_store(database: Path, runs: int, steps: int) -> None:
    """Rows of finished runs into an empty SQLite store that MLflow laid out, past MLflow: `steps` for each metric."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        [experiment] = connection.execute("SELECT min(experiment_id) FROM experiments").fetchone()
        for number in range(runs):
            _fill_run(connection, experiment, number, steps)
        connection.commit()


def _fill_run(connection: sqlite3.Connection, experiment: int, number: int, steps: int) -> None:
    kind, seed = number % KINDS, number // KINDS
    run, began = f"{number:032x}", round(START_TIME * 1000)
    connection.execute(
        "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id, user_id,"
        " source_type, artifact_uri) VALUES (?, ?, 'FINISHED', ?, ?, 'active', ?, '', 'LOCAL', '')",
        (run, f"run-{number:03d}", began + number, began + 1000 * (steps + 1), experiment),
    )
    params = [(key, json.dumps(value), run) for key, value in settings(kind, seed).items()]
    connection.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", params)
    tags = [("headrace.run_id", f"id-{number}", run), *((f"tag{i}", "value", run) for i in range(15))]
    connection.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)
    noise = random.Random(number)
    values = {**dict.fromkeys(METRICS, noise.random), "sequence_hash": lambda: float(noise.getrandbits(52))}
    points = [
        (key, value() + 5.0, began + 1000 * n, n, run) for n in range(1, steps + 1) for key, value in values.items()
    ]
    points += [("val_loss", 5 + 0.1 * kind + 0.01 * noise.random(), began + 1000 * n, n, run)
               for n in range(100, steps + 1, 100)]  # fmt: skip
    points += [("attempt", 1.0, began, 0, run)]
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, 0, ?)", points
    )
    newest = [(key, 5.0, began, steps, run) for key in METRICS]
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, 0, ?)", newest
    )
