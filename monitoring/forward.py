"""From the journal of a run to its MLflow run, exactly once, over any number of kills and restarts.

`OUT_DIR/journal/sent.json` holds, for each MLflow run, how far the journal was sent, and how far it will have been when
the send that is under way is done. After a kill in the middle that same piece is sent again: the same points, which
MLflow stores once. Points of the same step with another time stamp would be stored twice, so a step counts as sent by
its number, not by its values. What an attempt wrote after a newer one had begun is not sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.columns import believed_columns
from monitoring.errors import MonitoringError
from monitoring.goodput import goodput_of
from monitoring.history import believed, read_fence
from monitoring.journal import (
    JournalReader,
    Positions,
    Record,
    journal_dir,
    read_records,
    records_between,
    sender_lock,
    sent_paths,
)
from monitoring.journal_columns import read_columns
from monitoring.mlflow_store import MlflowRun, StoreErrors
from monitoring.runs import read_run_folder
from monitoring.settings import default_tracking_uri
from monitoring.translate import GOODPUT_TAG, Translator, Update

_PIECE_BYTES = 64 * 1024  # of the journal: about 200 steps; little to send again after a kill


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    run_id: str
    mlflow_run_id: str | None  # None: nothing was done, another process is sending this run
    points: int  # values of metrics sent
    status: str | None  # MLflow's word


@dataclass(frozen=True)
class Identity:
    """Who a run is, for its page in MLflow."""

    run_id: str
    name: str
    start_time_ms: int


class Forwarder:
    """Sends one run's journal, piece by piece."""

    def __init__(self, out_dir: Path, run: MlflowRun) -> None:
        """Takes up where `sent.json` says; sends an interrupted piece again (one of `StoreErrors` if that fails)."""
        self._out_dir = out_dir
        self._run = run
        self._log = _SentLog(out_dir, run.mlflow_run_id)
        self._translator = Translator()
        sent, sending = self._log.read()
        before = self._translate(records_between(out_dir, {}, sent))
        self._reader = JournalReader(out_dir, sending, sent_paths)
        interrupted = self._translate(records_between(out_dir, sent, sending))
        self._pending: Update | None = interrupted if sent != sending else None
        self.points = 0
        self.status = before.status  # MLflow's word, after what was sent

    def forward(self) -> bool:
        """Sends the next piece; False if there was none. After one of `StoreErrors` the next call tries it again."""
        if self._pending is None:
            self._pending = self._next_piece()
        if self._pending is None:
            return False
        self._run.send(self._pending)
        if self._pending.model is not None:
            self._run.add_model(self._pending.model)
        self._log.write(sent=self._reader.positions, sending=self._reader.positions)
        self.points += len(self._pending.points)
        self.status = self._pending.status or self.status
        self._pending = None
        return True

    def say_running(self) -> None:
        """Marks a run that goes on as running in MLflow, where a reader of its journal took it for dead meanwhile."""
        if self.status == "RUNNING":
            self._run.send(Update(status="RUNNING"))

    def say_dead(self) -> None:
        """Marks a run whose journal has no end, and which nobody drives any more, as failed in MLflow."""
        if self.status == "RUNNING":
            self._run.send(Update(status="FAILED"))
            self.status = "FAILED"

    @property
    def positions(self) -> Positions:
        """How far the journal was read, in bytes by file."""
        return self._reader.positions

    def add_plot(self) -> None:
        """Draws the losses, where the time went, and a classifier's confusion matrix; stores them with the run."""
        # Imported here: the drawing library is 35 MB that a sender needs once, at the end.
        from monitoring.confusion import newest_confusion, save_confusion
        from monitoring.plot import save_loss_plot

        records, folder = list(read_records(self._out_dir)), journal_dir(self._out_dir)
        self._run.add_file(save_loss_plot(records, folder / "loss.png"))
        self._add_goodput(folder)
        if (evaluation := newest_confusion(records)) is not None:
            for path in save_confusion(evaluation, folder):
                self._run.add_file(path)

    def _add_goodput(self, folder: Path) -> None:
        """Where the time went, as a picture and a tag. Reading the columns keeps them for later comparisons, too."""
        from monitoring.goodput_plot import save_goodput_plot

        fence = read_fence(self._out_dir)
        spent = goodput_of(believed_columns(read_columns(self._out_dir), fence), fence)
        self._run.add_file(save_goodput_plot(spent, folder / "goodput.png"))
        if spent.ratio is not None:
            self._run.send(Update(tags={GOODPUT_TAG: f"{spent.ratio:.4f}"}))

    def _next_piece(self) -> Update | None:
        before = self._reader.positions
        records = self._reader.poll(_PIECE_BYTES)
        if not records:
            return None
        self._log.write(sent=before, sending=self._reader.positions)
        return self._translate(records)

    def _translate(self, records: Iterable[Record]) -> Update:
        records = list(records)  # the fence is read after them: an attempt that outran one of them is there by then
        return self._translator.translate(believed(records, read_fence(self._out_dir)))


def import_journal(out_dir: Path, tracking_uri: str | None, experiment: str, *, is_driven: bool = True) -> ImportReport:
    """Brings MLflow up to the end of a run's journal, once through; nothing if a sender is at work on it.

    `tracking_uri` None: the SQLite store beside the runs. `is_driven` False: nobody drives the run, and if its journal
    has no end it is marked as failed; the next start marks it as running again. MonitoringError if there is no
    journal, if it is broken, or if the store cannot be used.
    """
    uri = tracking_uri or default_tracking_uri(out_dir)
    identity = identify(out_dir)
    if identity is None:
        raise MonitoringError(f"{journal_dir(out_dir)}: must hold the journal of a run, found no record; train first")
    with sender_lock(out_dir) as held:
        if not held:
            return ImportReport(identity.run_id, None, 0, None)
        try:
            return _import(out_dir, uri, experiment, identity, is_driven)
        except StoreErrors as error:
            raise MonitoringError(
                f"monitoring.tracking_uri: must be a store that can be written, found {uri!r}, which says: {error}; "
                f"start the server or correct the address"
            ) from error


def _import(out_dir: Path, uri: str, experiment: str, identity: Identity, is_driven: bool) -> ImportReport:
    run = MlflowRun.open(uri, experiment, identity.run_id, identity.name, identity.start_time_ms)
    forwarder = Forwarder(out_dir, run)
    while forwarder.forward():
        pass
    if forwarder.points:
        forwarder.add_plot()
    if not is_driven:
        forwarder.say_dead()
    return ImportReport(identity.run_id, run.mlflow_run_id, forwarder.points, forwarder.status)


def identify(out_dir: Path) -> Identity | None:
    """The run's identity, from its first start event, else from `run.json`; None while the journal is empty."""
    first: Record | None = None
    for record in read_records(out_dir):
        first = first or record
        if record.get("event") == "start":
            return Identity(record["run_id"], record["name"], round(record["time"] * 1000))
    if first is None:
        return None
    run = read_run_folder(out_dir)
    return Identity(run.run_id, run.name, round(first["time"] * 1000))


class _SentLog:
    """`sent.json`: {"version": 1, "runs": {MLFLOW_RUN_ID: {"sent": {FILE: BYTES}, "sending": {FILE: BYTES}}}}."""

    def __init__(self, out_dir: Path, mlflow_run_id: str) -> None:
        self._path = journal_dir(out_dir) / "sent.json"
        self._id = mlflow_run_id
        self._runs: dict[str, Any] = {}
        if self._path.exists():
            self._runs = _parse_sent(self._path)

    def read(self) -> tuple[Positions, Positions]:
        entry = self._runs.get(self._id, {"sent": {}, "sending": {}})
        return entry["sent"], entry["sending"]

    def write(self, sent: Mapping[str, int], sending: Mapping[str, int]) -> None:
        self._runs[self._id] = {"sent": dict(sent), "sending": dict(sending)}
        draft = self._path.with_name(f".sent.json.{os.getpid()}")
        with draft.open("w") as file:
            json.dump({"version": 1, "runs": self._runs}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


def _parse_sent(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())["runs"])
    except (ValueError, KeyError, TypeError) as error:
        raise MonitoringError(
            f"{path}: must be what was written there, found {path.read_text()[:80]!r}; remove it, "
            f"the journal is then sent from its beginning and MLflow drops what it has"
        ) from error
