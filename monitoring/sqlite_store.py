"""An SQLite store of MLflow, read past it: the runs that a search finds, and their points, many at a time.

MLflow's import, its opening of a database and its objects take longer than everything else (3.9 s of the processor for
500 runs, before the first point). Here three queries find the runs, and one for each metric reads its points by the
table's own key, read-only. A filter that is not known here, and a file whose tables are others, are left to MLflow.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np

from monitoring.search_filter import OtherFilterError, like, to_sql
from monitoring.stored_run import Points, Store, StoredRun, to_points

logger = logging.getLogger(__name__)

# All are numbers that a float holds exactly. NaN has no literal, and infinity is stored as the largest float: so
# infinity stands for NaN here.
_SELECT = (
    "SELECT w.place, m.step, m.timestamp, CASE WHEN m.is_nan THEN 9e999 ELSE m.value END FROM {tables}"
    " WHERE m.run_uuid = w.run_uuid AND m.key = ?"
)
_FEW = 0.2  # of a store's runs: fewer are read run by run


class SqliteStore:
    """An SQLite store, read without MLflow where that is possible."""

    def __init__(self, path: Path, through_mlflow: Callable[[], Store]) -> None:
        """Opens nothing yet. through_mlflow: the same store, for what cannot be read past it."""
        self._path = path
        self._through_mlflow = through_mlflow

    def search(self, text: str) -> list[StoredRun]:
        """As `Store.search`."""
        try:
            return self._search(text)
        except (OtherFilterError, sqlite3.OperationalError) as error:
            logger.debug("MLflow itself searches: %s", error)
            return self._through_mlflow().search(text)

    def points(self, runs: Sequence[StoredRun], keys: Sequence[str]) -> dict[str, Points]:
        """As `Store.points`."""
        try:
            return self._points(runs, keys)
        except sqlite3.OperationalError as error:
            logger.debug("MLflow itself reads the points: %s", error)
            return self._through_mlflow().points(runs, keys)

    def _search(self, text: str) -> list[StoredRun]:
        found = to_sql(text)
        with closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT run_uuid, name, status, end_time FROM runs WHERE lifecycle_stage = 'active' AND experiment_id"
                f" IN (SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active') AND {found.sql}"
                " ORDER BY start_time DESC, run_uuid",
                found.values,
            ).fetchall()
            params, tags = (_texts(connection, table, {row[0] for row in rows}) for table in ("params", "tags"))
        return [
            StoredRun(run_id, name or run_id, status, end, params.get(run_id, {}), tags.get(run_id, {}))
            for run_id, name, status, end in rows
        ]

    def _points(self, runs: Sequence[StoredRun], keys: Sequence[str]) -> dict[str, Points]:
        with closing(self._connect()) as connection:
            connection.execute("CREATE TEMP TABLE wanted (run_uuid TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")
            places = ((run.mlflow_run_id, place) for place, run in enumerate(runs))
            connection.executemany("INSERT INTO wanted VALUES (?, ?)", places)
            [total] = connection.execute("SELECT count(*) FROM runs").fetchone()
            # A cross join keeps to its order: a metric of all runs in one sweep, or run by run where they are few.
            tables = "wanted w CROSS JOIN metrics m" if len(runs) < _FEW * total else "metrics m CROSS JOIN wanted w"
            query = _SELECT.format(tables=tables)
            return {key: _from_rows(connection.execute(query, (key,))) for key in keys}

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=20)
        connection.create_function("headrace_like", 2, like, deterministic=True)
        connection.create_function(
            "headrace_ilike", 2, lambda text, wanted: like(text, wanted, True), deterministic=True
        )
        return connection


def _from_rows(rows: Iterable[tuple[float, ...]]) -> Points:
    """The points of rows of numbers, which are not kept as objects: there may be millions."""
    table = np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, 4)
    return to_points(table[:, 0], table[:, 1], table[:, 2], np.where(np.isposinf(table[:, 3]), np.nan, table[:, 3]))


def _texts(connection: sqlite3.Connection, table: str, runs: set[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for run_id, key, value in connection.execute(f"SELECT run_uuid, key, value FROM {table}"):
        if run_id in runs:
            found.setdefault(run_id, {})[key] = value
    return found
