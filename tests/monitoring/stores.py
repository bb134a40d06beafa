"""MLflow stores for tests: a stand-in, and readers of real ones."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from monitoring.mlflow_store import MlflowException
from monitoring.translate import ExportedModel, Point, Update


class FakeRun:
    """Stands in for an `MlflowRun`: keeps equal points once, as MLflow does, and fails where it is told to.

    `fails()` is asked before each point; True: the call ends there with an error, the points before it stay.
    """

    mlflow_run_id = "fake"

    def __init__(self, fails: Callable[[], bool] = lambda: False) -> None:
        self.fails = fails
        self.points: set[Point] = set()
        self.statuses: list[str] = []
        self.files: list[str] = []
        self.models: list[ExportedModel] = []

    def send(self, update: Update) -> None:
        for point in update.points:
            if self.fails():
                raise MlflowException("away")
            self.points.add(point)
        if update.status is not None:
            self.statuses.append(update.status)

    def add_model(self, exported: ExportedModel) -> None:
        if self.fails():
            raise MlflowException("away")
        self.models.append(exported)

    def add_file(self, path: Path) -> None:
        self.files.append(path.name)

    def times_stored(self) -> Counter[tuple[str, int]]:
        """How often each (metric, step) is there."""
        return Counter((point.key, point.step) for point in self.points)


def stored(database: Path) -> Counter[tuple[str, int]]:
    """How often each (metric, step) is in an SQLite store of one run, read past MLflow."""
    return Counter((key, step) for key, step in _query(database, "SELECT key, step FROM metrics"))


def statuses(database: Path) -> list[tuple[str, str]]:
    """(name, status) of each run in an SQLite store."""
    return [(name, status) for name, status in _query(database, "SELECT name, status FROM runs")]


def texts(database: Path, table: str) -> dict[str, str]:
    """The keys and values of the table "params" or "tags" in an SQLite store of one run."""
    return dict(_query(database, f"SELECT key, value FROM {table}"))


def _query(database: Path, sql: str) -> list[tuple]:  # type: ignore[type-arg]
    connection = sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=20)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
