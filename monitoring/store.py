"""The MLflow store at an address, read in the fastest way that there is."""

from __future__ import annotations

from pathlib import Path

from monitoring.errors import MonitoringError
from monitoring.sqlite_store import SqliteStore
from monitoring.stored_run import Store


def open_store(tracking_uri: str) -> Store:
    """The store at an address; MonitoringError for an SQLite file that is not there."""
    if not tracking_uri.startswith("sqlite:///"):
        return _client(tracking_uri)
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not path.is_file():
        raise MonitoringError(
            f"--search: needs an MLflow store, found no {path}; give --runs-dir or --tracking-uri, or run "
            f"`headrace sync RUN`"
        )
    return SqliteStore(path, lambda: _client(tracking_uri))


def _client(tracking_uri: str) -> Store:
    # Imported here: MLflow takes two seconds, and most stores are read without it.
    from monitoring.store_client import ClientStore

    return ClientStore(tracking_uri)
