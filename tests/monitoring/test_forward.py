"""From journal to MLflow exactly once."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import monitoring.forward as forward
from monitoring.errors import MonitoringError
from monitoring.forward import Forwarder, Identity, identify, import_journal
from monitoring.journal import sender_lock
from monitoring.mlflow_store import MlflowClient, MlflowException
from monitoring.runs import create_run_folder
from monitoring.settings import default_tracking_uri
from tests.monitoring.journals import START_TIME, end, evaluation, start, step, write_journal
from tests.monitoring.stores import FakeRun, statuses, stored, texts


def forward_all(forwarder: Forwarder) -> None:
    while forwarder.forward():
        pass


@given(
    writes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_forward_kills_failures_and_late_lines_no_step_twice_and_none_missing(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]], seed: int
) -> None:
    """Attempts write in turn; sends break off half-way; the process is killed between any two writes and reads."""
    out_dir = tmp_path_factory.mktemp("run")
    generator = random.Random(seed)
    run = FakeRun(fails=lambda: generator.random() < 0.05)
    forwarder = Forwarder(out_dir, run)  # type: ignore[arg-type]
    for attempt, number in writes:
        write_journal(out_dir, step(number, attempt))
        with contextlib.suppress(MlflowException):
            forwarder.forward()
        if generator.random() < 0.3:
            forwarder = Forwarder(out_dir, run)  # type: ignore[arg-type]
    run.fails = lambda: False
    forward_all(Forwarder(out_dir, run))  # type: ignore[arg-type]
    stored_times = run.times_stored()
    assert set(stored_times.values()) == {1}
    assert {number for key, number in stored_times if key == "loss"} == {number for _, number in writes}


def test_forward_killed_half_way_before_a_late_line_of_an_older_attempt_sends_the_same_piece(tmp_path: Path) -> None:
    room = iter([False, False, False, True])
    run = FakeRun(fails=lambda: next(room, False))
    write_journal(tmp_path, step(5, 2))
    with pytest.raises(MlflowException):
        Forwarder(tmp_path, run).forward()  # type: ignore[arg-type]
    assert len(run.points) == 3
    write_journal(tmp_path, step(5, 1))  # comes late; read first, it would be stored beside the three points
    forward_all(Forwarder(tmp_path, run))  # type: ignore[arg-type]
    assert set(run.times_stored().values()) == {1}
    assert {point.time_ms for point in run.points} == {round(step(5, 2)["time"] * 1000)}


def test_forward_long_journal_goes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_PIECE_BYTES", 1000)
    write_journal(tmp_path, start(), *[step(i) for i in range(1, 31)], end(30))
    run = FakeRun()
    forwarder = Forwarder(tmp_path, run)  # type: ignore[arg-type]
    assert forwarder.forward()
    assert 0 < len(run.points) < 100
    forward_all(forwarder)
    assert (forwarder.points, len(run.points), run.statuses) == (301, 301, ["RUNNING", "FINISHED"])


def take(out_dir: Path, attempt: int, time: float) -> None:
    folder = out_dir / "attempts"
    folder.mkdir(exist_ok=True)
    (folder / f"{attempt:04d}.json").write_text(json.dumps({"host": "a", "pid": 1, "time": time}))


def test_forward_what_an_outrun_attempt_writes_is_not_sent(tmp_path: Path) -> None:
    """Its values may not be those of the run: MLflow keeps the first that it is given for a step."""
    run = FakeRun()
    take(tmp_path, 1, START_TIME)
    write_journal(tmp_path, start(), *[step(i) for i in range(1, 6)])
    forward_all(Forwarder(tmp_path, run))  # type: ignore[arg-type]
    take(tmp_path, 2, START_TIME + 1005.5)
    write_journal(tmp_path, *[step(i, loss=0.5) for i in range(6, 9)], end(8))
    forward_all(Forwarder(tmp_path, run))  # type: ignore[arg-type]
    write_journal(tmp_path, start(2, 4), *[step(i, 2) for i in range(5, 8)])
    forward_all(Forwarder(tmp_path, run))  # type: ignore[arg-type]
    losses = {point.step: point.value for point in run.points if point.key == "loss"}
    assert losses == {i: 9.0 - 0.01 * i for i in range(1, 8)}
    assert set(run.times_stored().values()) == {1}
    assert run.statuses == ["RUNNING", "RUNNING"]


def test_sent_log_broken_is_named(tmp_path: Path) -> None:
    write_journal(tmp_path, start())
    (tmp_path / "journal" / "sent.json").write_text("{")
    with pytest.raises(MonitoringError, match=r"sent\.json: .*remove it"):
        Forwarder(tmp_path, FakeRun())  # type: ignore[arg-type]


def test_identify_from_start_event_else_run_json(tmp_path: Path) -> None:
    assert identify(tmp_path) is None
    create_run_folder(tmp_path, "id-1", "from file", "")
    write_journal(tmp_path, step(1))
    assert identify(tmp_path) == Identity("id-1", "from file", round((START_TIME + 1001) * 1000))
    write_journal(tmp_path, start(2))
    assert identify(tmp_path) == Identity("20250101-0123456789ab", "demo", round((START_TIME + 2000) * 1000))


def test_import_journal_without_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="found no record"):
        import_journal(tmp_path, None, "headrace")


def test_import_journal_while_a_sender_is_at_work_does_nothing(tmp_path: Path) -> None:
    write_journal(tmp_path, start(), step(1))
    with sender_lock(tmp_path) as held:
        report = import_journal(tmp_path, None, "headrace")
    assert held is True
    assert (report.mlflow_run_id, report.points) == (None, 0)
    assert not (tmp_path.parent / "mlflow.db").exists()


@pytest.mark.slow
def test_import_journal_restarts_and_repeats_make_one_run_with_each_step_once(out_dir: Path) -> None:
    database = out_dir.parent / "mlflow.db"
    write_journal(out_dir, start(), *[step(i) for i in range(1, 9)], evaluation(8, 6.0), end(8, status="failed"))
    first = import_journal(out_dir, None, "headrace")
    assert (first.points, first.status) == (84, "FAILED")
    assert statuses(database) == [("demo", "FAILED")]

    write_journal(out_dir, start(2, 4, params={"train.lr": 0.5, "new": 1}), *[step(i, 2) for i in range(5, 13)])
    second = import_journal(out_dir, None, "headrace")
    assert second.mlflow_run_id == first.mlflow_run_id
    assert (second.points, second.status) == (41, "RUNNING")
    assert statuses(database) == [("demo", "RUNNING")]

    (out_dir / "journal" / "sent.json").unlink()
    write_journal(out_dir, end(12, 2))
    third = import_journal(out_dir, None, "headrace")
    assert (third.mlflow_run_id, third.status) == (first.mlflow_run_id, "FINISHED")
    times = stored(database)
    assert set(times.values()) == {1}
    assert {number for key, number in times if key == "loss"} == set(range(1, 13))
    _check_texts_and_files(out_dir, database)


def _check_texts_and_files(out_dir: Path, database: Path) -> None:
    assert texts(database, "params") == {
        **{"train.lr": "0.001", "model.preset": "gpt2-tiny", "data.sources": '["a.txt"]', "new": "1"}
    }
    tags = texts(database, "tags")
    assert tags["headrace.changed.train.lr"] == "0.5"
    assert (tags["headrace.run_id"], tags["headrace.attempts"]) == ("20250101-0123456789ab", "2")
    files = {path.name: path for path in (out_dir.parent / "mlartifacts").rglob("*") if path.is_file()}
    assert set(files) == {"run.yaml", "loss.png", "goodput.png"}
    assert 0.0 < float(tags["headrace.goodput"]) < 1.0
    assert files["run.yaml"].read_text() == "name: demo\n"


@pytest.mark.slow
def test_import_journal_two_runs_share_the_store_of_their_folder(out_dir: Path) -> None:
    other = out_dir.parent / "other"
    write_journal(out_dir, start(), step(1), end(1))
    write_journal(other, start(run_id="other-id", name="other"), step(1))
    assert import_journal(out_dir, None, "headrace").mlflow_run_id != import_journal(other, None, "e2").mlflow_run_id
    assert sorted(statuses(out_dir.parent / "mlflow.db")) == [("demo", "FINISHED"), ("other", "RUNNING")]


@pytest.mark.slow
def test_import_journal_many_long_params_and_tags_with_odd_keys_are_taken(out_dir: Path) -> None:
    params = {f"p.{i}": "三" * 9000 for i in range(45)} | {"a b*c": 1, "/x//y": 2, "empty": ""}
    tags = {f"t{i}": "😀" * 9000 for i in range(45)}
    write_journal(out_dir, start(params=params, tags=tags))
    import_journal(out_dir, None, "headrace")
    stored_params, stored_tags = (
        texts(out_dir.parent / "mlflow.db", "params"),
        texts(out_dir.parent / "mlflow.db", "tags"),
    )
    assert stored_params["p.44"] == "三" * 6000
    assert (stored_params["a b_c"], stored_params["_/x/_/y"], stored_params["empty"]) == ("1", "2", "")
    assert stored_tags["t44"] == "😀" * 8000


@pytest.mark.slow
def test_import_journal_nan_and_infinite_losses_are_stored(out_dir: Path) -> None:
    nan = step(2, loss=float("nan"), loss_hex="nan", grad_norm=float("inf"))
    write_journal(out_dir, step(1), nan, start())
    import_journal(out_dir, None, "headrace")
    import_journal(out_dir, None, "headrace")
    times = stored(out_dir.parent / "mlflow.db")
    assert times["loss", 2] == times["grad_norm", 2] == 1


@pytest.mark.slow
def test_import_journal_deleted_experiment_is_named(out_dir: Path) -> None:
    client = MlflowClient(tracking_uri=default_tracking_uri(out_dir))
    client.delete_experiment(client.create_experiment("gone"))
    write_journal(out_dir, start())
    with pytest.raises(MonitoringError, match=r"monitoring\.experiment: .*'gone', which was deleted"):
        import_journal(out_dir, None, "gone")


@pytest.mark.slow
def test_import_journal_unreachable_store_is_named_soon(tmp_path: Path) -> None:
    write_journal(tmp_path, start())
    with pytest.raises(MonitoringError, match=r"monitoring\.tracking_uri: .*http://127\.0\.0\.1:9"):
        import_journal(tmp_path, "http://127.0.0.1:9", "headrace")
    (tmp_path / "mlflow.db").write_text("this is no database, but some text that is long enough to be read as one")
    with pytest.raises(MonitoringError, match=r"monitoring\.tracking_uri: .*mlflow\.db"):
        import_journal(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "headrace")
