"""The event of an exported model: once for each checkpoint, and there before MLflow is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cluster.model_log as model_log
from cluster.model_log import log_exported, model_texts
from data_shards.task_settings import ClassTask
from monitoring.errors import MonitoringError
from monitoring.journal import read_records
from tests.trainer.trained_run import make_run
from trainer.attempts import take_attempt
from trainer.trained import open_trained


def test_exported_model_is_told_once_though_mlflow_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out_dir = make_run(tmp_path)
    take_attempt(out_dir)
    asked: list[Path] = []

    def away(out_dir: Path, *given: Any) -> None:
        asked.append(out_dir)
        raise MonitoringError("monitoring.tracking_uri: nothing answers")

    monkeypatch.setattr(model_log, "import_journal", away)
    trained = open_trained(out_dir)
    for _ in range(2):
        log_exported(trained.config, trained, out_dir / "model")
    [event] = [record for record in read_records(out_dir) if record.get("event") == "model"]
    assert (event["step"], event["path"], event["texts"]) == (10, str(out_dir / "model"), ["prompt"])
    assert Path(trained.choice.address).name == event["checkpoint"]
    assert asked == [out_dir]
    assert "headrace sync" in caplog.text


def test_model_takes_what_its_task_reads(tmp_path: Path) -> None:
    config = open_trained(make_run(tmp_path)).config

    def with_task(task: ClassTask) -> list[str]:
        source = config.data.sources[0].model_copy(update={"task": task})
        data = config.data.model_copy(update={"sources": (source,)})
        return model_texts(config.model_copy(update={"data": data}), ("ham", "spam"))

    assert with_task(ClassTask(text="body", label="kind")) == ["text"]
    assert with_task(ClassTask(text="a", pair="b", label="kind")) == ["text", "pair"]
