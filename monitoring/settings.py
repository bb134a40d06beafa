"""The `monitoring:` section of a run file."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from monitoring.addresses import holds_secret, without_secrets

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


class MonitoringSettings(BaseModel):
    """Where the metrics of a run go."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tracking_uri: str | None = Field(
        default=None,
        description="Address of the MLflow store: http://HOST:PORT of a server, or sqlite:///FILE. "
        "null: one SQLite store beside the runs (mlflow.db in the folder that holds out_dir).",
    )
    experiment: str = Field(
        default="headrace", min_length=1, description="MLflow experiment that the run is filed under; made if absent."
    )
    system_metrics_seconds: float | None = Field(
        default=10.0,
        ge=1,
        allow_inf_nan=False,
        description="how often each node's processor, memory, disk, network and GPUs are sampled; null: never",
    )
    log_model: bool = Field(
        default=True,
        description="whether `headrace run` logs the exported model for mlflow.pyfunc.load_model, a copy in the store",
    )

    @field_validator("tracking_uri")
    @classmethod
    def _has_a_usable_scheme(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?:", value)
        if scheme is None or scheme.group(1) not in _SCHEMES:
            raise ValueError(
                f"must be the address of an MLflow server (http://HOST:PORT) or a database (sqlite:///FILE), "
                f"found {without_secrets(value)!r}; MLflow's plain folder store is not supported, write sqlite:///FILE"
            )
        if holds_secret(value):
            raise ValueError(
                f"must hold no password, since the run file is stored with the run, found "
                f"{without_secrets(value)!r}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
                f"PGPASSWORD) in the environment"
            )
        return value


def resolve_paths(settings: MonitoringSettings, base: Path) -> MonitoringSettings:
    """The settings with a relative `sqlite:///FILE` made absolute against `base` (the run file's folder)."""
    uri = settings.tracking_uri
    if uri is None or not uri.startswith("sqlite:///"):
        return settings
    path = (base.absolute() / uri.removeprefix("sqlite:///")).resolve()
    return settings.model_copy(update={"tracking_uri": f"sqlite:///{path}"})


def default_tracking_uri(out_dir: Path) -> str:
    """The store that all runs of a folder share: `mlflow.db` beside `out_dir`."""
    return f"sqlite:///{out_dir.resolve().parent / 'mlflow.db'}"
