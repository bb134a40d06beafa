"""An exported model as an MLflow model: what `mlflow.pyfunc.load_model` needs around a folder in Hugging Face's layout.

The weights go file by file from the export to the store, and are never in memory. Whoever loads the model needs torch
and transformers, and none of Headrace's packages: `model_loader.py` travels with it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from monitoring import model_loader
from monitoring.translate import ExportedModel

logger = logging.getLogger(__name__)

Lock = Callable[[], AbstractContextManager[None]]

MODEL_NAME = "model"
KEY_TAG = "headrace.checkpoint"
LOADER_MODULE = "headrace_model_loader"
UPLOAD_SECONDS = 300  # for the server's answer to one file
_NEEDED = {"torch": "torch>=2.9", "transformers": "transformers>=5,<6", "safetensors": "safetensors>=0.6"}


def log_model(client: MlflowClient, mlflow_run_id: str, exported: ExportedModel, alone: Lock) -> None:
    """Logs the model as an output of its run; nothing if the run has that one. Safe to repeat after a failure.

    `alone()` keeps other writers out of the store; files are copied without it. A folder that is gone is told, and
    left out.
    """
    folder = Path(exported.folder)
    if not (folder / "config.json").is_file():
        logger.warning("%s: the exported model is no longer there, so MLflow has none", folder)
        return
    logged = _find(client, mlflow_run_id, exported.key)
    if logged is not None and logged.status == LoggedModelStatus.READY:
        return
    if logged is None:
        with alone():
            logged = _create(client, mlflow_run_id, exported)
    with _patience(), tempfile.TemporaryDirectory() as place:
        write_package(Path(place), exported, logged.model_id, mlflow_run_id)
        client.log_model_artifacts(logged.model_id, place)
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                client.log_model_artifact(logged.model_id, str(path), "data")
    with alone():
        client.log_outputs(mlflow_run_id, [LoggedModelOutput(logged.model_id, exported.step)])
        client.finalize_logged_model(logged.model_id, "READY")


def write_package(place: Path, exported: ExportedModel, model_id: str, mlflow_run_id: str) -> None:
    """All files of the MLflow model but those of the export, which belong beside them in `data/`."""
    (place / "code").mkdir()
    shutil.copyfile(str(model_loader.__file__), place / "code" / f"{LOADER_MODULE}.py")
    (place / "requirements.txt").write_text("\n".join(["mlflow", *_requirements()]) + "\n")
    (place / "python_env.yaml").write_text("dependencies:\n- -r requirements.txt\n")
    config = json.loads((Path(exported.folder) / "config.json").read_text(encoding="utf-8"))
    model = Model(
        artifact_path=MODEL_NAME,
        run_id=mlflow_run_id,
        model_id=model_id,
        signature=_signature(exported),
        metadata={"architecture": config["architectures"][0], "step": exported.step, "checkpoint": exported.key},
        model_size_bytes=sum(path.stat().st_size for path in Path(exported.folder).iterdir()),
    )
    mlflow.pyfunc.add_to_model(model, LOADER_MODULE, data="data", code="code", python_env="python_env.yaml")
    model.save(str(place / "MLmodel"))


def _signature(exported: ExportedModel) -> ModelSignature:
    # A single column has no name: a list of texts is taken then, and a table whatever its column is called.
    names = exported.texts if len(exported.texts) > 1 else (None,)
    columns = [ColSpec(DataType.string, name) for name in names]
    outputs = Schema([ColSpec(DataType.string)])
    if exported.texts[0] != "prompt":
        return ModelSignature(Schema(columns), outputs)
    params = [
        ParamSpec("max_new_tokens", DataType.long, 64),
        ParamSpec("temperature", DataType.double, 0.0),
        ParamSpec("top_k", DataType.long, 50),
        ParamSpec("seed", DataType.long, 0),
    ]
    return ModelSignature(Schema(columns), outputs, ParamSchema(params))


def _requirements() -> list[str]:
    """What the loader needs, at the versions that are here; as a range where a package is not."""
    return [_pinned(name, needed) for name, needed in _NEEDED.items()]


def _pinned(name: str, needed: str) -> str:
    try:
        return f"{name}=={version(name).partition('+')[0]}"
    except PackageNotFoundError:  # transformers is needed by those who load the model alone
        return needed


def _find(client: MlflowClient, mlflow_run_id: str, key: str) -> Any:
    """The run's model of that key, if it was begun."""
    experiment_id = client.get_run(mlflow_run_id).info.experiment_id
    found = client.search_logged_models([experiment_id], f"source_run_id = '{mlflow_run_id}'", max_results=1000)
    return next((model for model in found if model.tags.get(KEY_TAG) == key), None)


def _create(client: MlflowClient, mlflow_run_id: str, exported: ExportedModel) -> Any:
    return client.create_logged_model(
        client.get_run(mlflow_run_id).info.experiment_id,
        MODEL_NAME,
        mlflow_run_id,
        tags={KEY_TAG: exported.key},
        params={"step": str(exported.step)},
        model_type="language model" if exported.texts[0] == "prompt" else "classifier",
    )


@contextmanager
def _patience() -> Iterator[None]:
    """A file of gigabytes takes a server longer than a metric: its answer is waited for."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(UPLOAD_SECONDS, int(before)))
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
