"""The `monitoring:` section."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from monitoring.settings import MonitoringSettings, default_tracking_uri, resolve_paths


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "/tmp/mlruns", "ftp://host", ""])
def test_tracking_uri_of_a_store_that_mlflow_refuses_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError, match="sqlite:///FILE"):
        MonitoringSettings(tracking_uri=uri)


@pytest.mark.parametrize("uri", [None, "http://host:5000", "sqlite:///a.db", "postgresql+psycopg2://u@h/d"])
def test_tracking_uri_of_a_usable_store_is_taken(uri: str | None) -> None:
    assert MonitoringSettings(tracking_uri=uri).tracking_uri == uri


def test_tracking_uri_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ValidationError, match=r"http://me:\.\.\.@host") as caught:
        MonitoringSettings(tracking_uri="http://me:s3cret@host:5000")
    assert "s3cret" not in str(caught.value)


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="uri"):
        MonitoringSettings.model_validate({"uri": "http://host"})


def test_resolve_paths_relative_sqlite_file_is_taken_from_the_run_files_folder(tmp_path: Path) -> None:
    settings = MonitoringSettings(tracking_uri="sqlite:///../store/mlflow.db")
    assert resolve_paths(settings, tmp_path / "recipes").tracking_uri == f"sqlite:///{tmp_path}/store/mlflow.db"


@pytest.mark.parametrize("uri", [None, "http://host:5000", "sqlite:////srv/mlflow.db"])
def test_resolve_paths_other_addresses_stay(uri: str | None, tmp_path: Path) -> None:
    assert resolve_paths(MonitoringSettings(tracking_uri=uri), tmp_path).tracking_uri == uri


def test_default_tracking_uri_lies_beside_the_run(tmp_path: Path) -> None:
    assert default_tracking_uri(tmp_path / "runs" / "a") == f"sqlite:///{tmp_path}/runs/mlflow.db"
