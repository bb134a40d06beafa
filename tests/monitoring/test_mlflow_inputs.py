"""Datasets and lineage as MLflow's own client reads them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.forward import import_journal
from monitoring.mlflow_store import MlflowClient
from tests.monitoring.journals import dataset_facts, end, start, step, write_journal

pytestmark = pytest.mark.slow


def test_datasets_of_a_run_that_was_restarted_are_its_inputs_once(out_dir: Path) -> None:
    import mlflow.data

    facts = [dataset_facts(), dataset_facts("val")]
    write_journal(out_dir, start(datasets=facts), step(1), start(2, 1, datasets=facts), step(2, 2), end(2, 2))
    (out_dir / "journal/sent.json").unlink(missing_ok=True)
    uri = f"sqlite:///{out_dir.parent / 'mlflow.db'}"
    run_id = import_journal(out_dir, uri, "headrace").mlflow_run_id
    inputs = MlflowClient(tracking_uri=uri).get_run(run_id).inputs.dataset_inputs
    found = {used.dataset.name: (used.dataset.digest, used.tags[0].value) for used in inputs}
    assert found == {"mill/train": ("f" * 36, "training"), "mill/val": ("f" * 36, "validation")}
    assert len(inputs) == 2
    assert mlflow.data.get_source(inputs[0]).uri == "/data/mill"
