"""Searching MLflow's stores, past MLflow and through it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from monitoring.compare import check_pair
from monitoring.compared_runs import compare_runs, from_folder, search
from monitoring.errors import MonitoringError
from monitoring.forward import import_journal
from monitoring.mlflow_store import MlflowClient
from monitoring.runs import create_run_folder, list_runs
from monitoring.store import open_store
from monitoring.store_client import ClientStore
from tests.monitoring.journals import START_TIME, end, evaluation, start, step, write_journal

FILTERS = (
    "",
    "params.`train.lr` = '0.2'",
    "params.`train.lr` != '0.2'",
    "metrics.loss < 8.85",
    "metrics.loss >= 8.85 and params.seed = '1'",
    "tags.`headrace.run_id` LIKE 'ID-%'",
    "tags.`headrace.run_id` ILIKE 'ID-%'",
    "attributes.run_name = 'run-1'",
    "attributes.status = 'FINISHED'",
    "attributes.run_id IN ('1', '3')",
    "attributes.start_time > 0",
)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Three runs, of which two ended, and their store."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_database, folder / "mlflow.db")
    for number, (lr, seed) in enumerate(((0.1, 1), (0.2, 1), (0.2, 2))):
        name, run_id = f"run-{number}", f"id-{number}"
        run = create_run_folder(folder / name, run_id, name, "monitoring: {}\n")
        params = {"train.lr": lr, "seed": seed, "model.preset": "gpt2-tiny", "resolved.parameters": 7}
        steps = [step(i) for i in range(1, 11 + 5 * number)]
        final = [] if number == 2 else [end(10 + 5 * number)]
        first = start(run_id=run_id, name=name, params=params, time=START_TIME + 1000 + 0.1 * number)
        write_journal(run.out_dir, first, *steps, evaluation(5, 8.0 - number), evaluation(10, 7.0 - number), *final)
        import_journal(run.out_dir, None, "headrace")
    return folder


@pytest.mark.parametrize("text", FILTERS)
def test_search_past_mlflow_finds_what_mlflow_finds(runs_dir: Path, text: str) -> None:
    uri = f"sqlite:///{runs_dir / 'mlflow.db'}"
    assert open_store(uri).search(text) == ClientStore(uri).search(text)


def test_points_past_mlflow_are_those_of_mlflow(runs_dir: Path) -> None:
    uri = f"sqlite:///{runs_dir / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    runs = ClientStore(uri).search("")
    client.log_metric(runs[0].mlflow_run_id, "odd", math.nan, timestamp=5, step=1)
    client.log_metric(runs[0].mlflow_run_id, "odd", -math.inf, timestamp=5, step=2)
    for some in (runs, runs[:1], runs[1:]):
        keys = ("loss", "odd", "absent")
        ours, theirs = open_store(uri).points(some, keys), ClientStore(uri).points(some, keys)
        for key in keys:
            ordered = [sorted(map(str, points[key].tolist())) for points in (ours, theirs)]
            assert ordered[0] == ordered[1]
    assert len(ours["loss"]) == len(theirs["loss"]) > 0


def test_search_runs_without_their_folders_are_compared_by_their_points(runs_dir: Path) -> None:
    uri = f"sqlite:///{runs_dir / 'mlflow.db'}"
    here = list_runs(runs_dir)
    by_points = search(uri, "metrics.loss > 0", [])
    by_journal = search(uri, "metrics.loss > 0", here)
    assert [run.summary.run_id for run in by_points] == ["id-0", "id-1", "id-2"]
    for points, journal in zip(by_points, by_journal, strict=True):
        a, b = points.summary, journal.summary
        assert (a.name, a.status, a.steps, a.tokens) == (b.name, b.status, b.steps, b.tokens)
        assert (a.last_loss, a.best_val_loss, a.unigram_loss) == (b.last_loss, b.best_val_loss, b.unigram_loss)
        assert (a.tokens_per_second, a.utilisation) == (b.tokens_per_second, b.utilisation)
        assert a.goodput == pytest.approx(b.goodput, rel=1e-3)
        assert [(x, y) for x, _, y in a.val_losses] == [(x, y) for x, _, y in b.val_losses]
        assert points.settings == journal.settings
        pair = check_pair(a, b)
        assert (pair.common_steps, pair.first_step_of_other_data, pair.first_step_of_other_loss) == (
            b.steps,
            None,
            None,
        )
    assert compare_runs(by_points).settings == {"train.lr": (0.1, 0.2, 0.2), "seed": (1, 1, 2)}


def test_search_run_of_several_attempts_without_its_folder_tells_goodput_by_its_tag(
    tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    run = create_run_folder(tmp_path / "again", "id", "again", "monitoring: {}\n")
    again = {"run_id": "id", "name": "again"}
    stop = end(4, status="stopped")
    write_journal(run.out_dir, start(**again), *[step(i) for i in range(1, 5)], stop)
    write_journal(run.out_dir, start(2, 4, **again), *[step(i, 2) for i in range(5, 9)], end(8, 2))
    import_journal(run.out_dir, None, "headrace")
    [found] = search(f"sqlite:///{tmp_path / 'mlflow.db'}", "", [])
    assert found.summary.restarts == 1
    assert found.summary.goodput == pytest.approx(from_folder(run).summary.goodput, abs=1e-4)
    assert found.summary.counted["attempt"].tolist() == [1] * 4 + [2] * 4
    assert found.summary.counted["time"][0] == START_TIME + 1001


@pytest.mark.parametrize(
    ("text", "said"),
    [("params.x = 'nothing'", "must find a run"), ("params.x ~ 1", "must be a filter that MLflow takes")],
)
def test_search_that_finds_nothing_or_is_wrong_says_so(runs_dir: Path, text: str, said: str) -> None:
    with pytest.raises(MonitoringError, match=said):
        search(f"sqlite:///{runs_dir / 'mlflow.db'}", text, [])


def test_open_store_without_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="needs an MLflow store"):
        open_store(f"sqlite:///{tmp_path / 'absent.db'}")


@pytest.mark.long
def test_search_of_another_database_is_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()  # no table in it: MLflow lays them out and finds nothing
    with pytest.raises(MonitoringError, match="must find a run"):
        search(f"sqlite:///{tmp_path / 'mlflow.db'}", "", [])
