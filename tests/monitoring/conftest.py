"""An empty SQLite store, made once: MLflow takes seconds to lay out its tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an MLflow store without experiments of ours."""
    from monitoring.mlflow_store import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def out_dir(tmp_path: Path, empty_database: Path) -> Path:
    """The folder of a run, with the store that its default address names beside it."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = tmp_path / "run"
    folder.mkdir()
    return folder
