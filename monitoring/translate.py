"""From journal records to what a run's page in MLflow shows. Pure: no MLflow, no files, no clock.

Metrics carry the journal's names. The hash of a step's sequence ids is text and MLflow's metrics are numbers: metric
`sequence_hash` is the integer of its first 13 hex digits (52 bits, exact in a float64); the journal has all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from monitoring.journal import Record, is_step, number
from monitoring.rank_times import rank_metrics, slowest_rank_text

MAX_PARAM_LENGTH = 6000  # MLflow's limits, in characters
MAX_TAG_LENGTH = 8000
MAX_KEY_LENGTH = 250
MAX_DIGEST_LENGTH = 36  # a dataset's; its tags and profile have all of the fingerprint

RUN_ID_TAG = "headrace.run_id"
GOODPUT_TAG = "headrace.goodput"  # effective training time over wall time, as of the newest end

_NO_METRIC = frozenset({"step", "attempt", "time", "sequence_hash"})
_EVALUATION_KEYS = ("val_loss", "unigram_loss", "val_accuracy", "val_macro_f1")
_CHECKPOINT_KEYS = ("seconds", "bytes", "stall_seconds", "held_seconds", "written_seconds")
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class DatasetUse:
    """A dataset that the run read, in MLflow's words: schema, source and profile are JSON."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str
    profile: str
    context: str  # training or validation


@dataclass(frozen=True)
class ExportedModel:
    """An exported model that is to be logged. key tells it from those of other steps of the run."""

    folder: str
    key: str
    step: int
    texts: tuple[str, ...]  # names of the columns that it takes


@dataclass
class Update:
    """What some records change in MLflow."""

    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None  # MLflow's word; None: as it was
    end_time_ms: int | None = None
    run_file: str | None = None
    datasets: list[DatasetUse] = field(default_factory=list)
    model: ExportedModel | None = None
    started: bool = False  # a start event was among the records


class Translator:
    """Turns records into updates, in the order of the journal; of a step that was run twice, the first is kept."""

    def __init__(self) -> None:
        self._seen: dict[str, set[int]] = {}
        self._samples: dict[str, int] = {}  # the newest sample's number, by node

    def translate(self, records: Iterable[Record]) -> Update:
        """The update that these records make, given all records translated before."""
        update = Update()
        for record in records:
            if is_step(record):
                self._add_step(record, update)
            else:
                self._add_event(record, update)
        return update

    def _add_step(self, record: Record, update: Update) -> None:
        if not self._is_first("step", record["step"]):
            return
        keys = [key for key in record if key not in _NO_METRIC and not key.endswith("_hex")]
        _add_points(update, record, record["step"], {key: number(record, key) for key in keys})
        if isinstance(record.get("sequence_hash"), str):
            value = float(int(record["sequence_hash"][:13], 16))
            _add_points(update, record, record["step"], {"sequence_hash": value})

    def _add_event(self, record: Record, update: Update) -> None:
        match record.get("event"):
            case "start":
                self._add_start(record, update)
            case "eval":
                self._add_evaluation(record, update)
            case "checkpoint":
                self._add_checkpoint(record, update)
            case "restart" if self._is_first("restart", record["attempt"]):
                values = {"restart_seconds": number(record, "seconds")}
                _add_points(update, record, record["resumed_step"], values)
            case "rank_times" if self._is_first("rank_times", record["step"]):
                _add_points(update, record, record["step"], rank_metrics(record["seconds"]))
                if (slowest := slowest_rank_text([record])) is not None:
                    update.tags["headrace.slowest_rank"] = slowest[:MAX_TAG_LENGTH]
            case "rank_dead" | "gang_restart":
                update.tags["headrace.last_failure"] = _failure(record)
            case "system":
                self._add_system(record, update)
            case "model":
                update.model = _exported(record)
            case "end":
                update.status = _STATUS[record["status"]]
                update.end_time_ms = _milliseconds(record)

    def _add_start(self, record: Record, update: Update) -> None:
        update.started = True
        update.status, update.end_time_ms = "RUNNING", None
        update.run_file = record.get("run_file", update.run_file)
        update.params |= {_key(key): _text(value)[:MAX_PARAM_LENGTH] for key, value in record["params"].items()}
        update.tags |= {_key(key): _text(value)[:MAX_TAG_LENGTH] for key, value in record["tags"].items()}
        update.tags["headrace.attempts"] = str(record["attempt"])
        update.datasets = [_dataset_use(facts) for facts in record.get("datasets", ())]
        if "world_size" in record:
            update.tags["headrace.world_size"] = str(record["world_size"])
        if self._is_first("attempt", record["attempt"]):
            _add_points(update, record, record.get("resumed_step", 0), {"attempt": float(record["attempt"])})

    def _add_evaluation(self, record: Record, update: Update) -> None:
        losses = {key: number(record, key) for key in _EVALUATION_KEYS}
        if self._is_first("eval", record["step"]):
            _add_points(update, record, record["step"], {**losses, "eval_seconds": number(record, "seconds")})
        if record.get("final") and self._is_first("final", record["step"]):
            final = {f"final_{key}": value for key, value in losses.items()}
            _add_points(update, record, record["step"], final)

    def _add_checkpoint(self, record: Record, update: Update) -> None:
        if self._is_first("checkpoint", record["step"]):
            values = {f"checkpoint_{key}": number(record, key) for key in _CHECKPOINT_KEYS}
            _add_points(update, record, record["step"], values)
        if "path" in record:
            update.tags["headrace.checkpoint"] = str(record["path"])[:MAX_TAG_LENGTH]

    def _add_system(self, record: Record, update: Update) -> None:
        """A node's sample. Its step is its number, over all restarts, as MLflow's own monitor counts."""
        node = str(record["node"])
        sample = self._samples[node] = self._samples.get(node, -1) + 1
        values = {_key(f"system/{node}/{name}"): number(record["values"], name) for name in record["values"]}
        _add_points(update, record, sample, values)

    def _is_first(self, kind: str, index: int) -> bool:
        seen = self._seen.setdefault(kind, set())
        if index in seen:
            return False
        seen.add(index)
        return True


def _add_points(update: Update, record: Record, step: int, values: Mapping[str, float | None]) -> None:
    time_ms = _milliseconds(record)
    update.points += [Point(key, value, time_ms, step) for key, value in values.items() if value is not None]


def _dataset_use(facts: Mapping[str, Any]) -> DatasetUse:
    scheme = str(facts["address"]).partition("://")
    tensor = {"dtype": facts["dtype"], "shape": [-1]}
    profile = {key: value for key, value in facts.items() if key not in ("name", "context")}
    return DatasetUse(
        name=facts["name"],
        digest=facts["fingerprint"][:MAX_DIGEST_LENGTH],
        source_type=scheme[0] if scheme[1] else "local",
        source=json.dumps({"uri": facts["address"]}),
        schema=json.dumps({"mlflow_tensorspec": [{"name": "tokens", "type": "tensor", "tensor-spec": tensor}]}),
        profile=json.dumps(profile, ensure_ascii=False),
        context=facts["context"],
    )


def _exported(record: Record) -> ExportedModel:
    return ExportedModel(record["path"], record["checkpoint"], record["step"], tuple(record["texts"]))


def _milliseconds(record: Record) -> int:
    return round(float(record["time"]) * 1000)


def _failure(record: Record) -> str:
    where = f"rank {record['rank']} on {record.get('node')} at step {record.get('step')}: " if "rank" in record else ""
    return f"attempt {record['attempt']}: {where}{record.get('reason')}"[:MAX_TAG_LENGTH]


def _key(text: str) -> str:
    """A key that MLflow takes: letters, digits and _ - . space : / only, no empty, `.` or `..` part of a path."""
    plain = re.sub(r"[^\w\-. :/]", "_", text)
    return re.sub(r"(^|/)(\.{0,2})(?=/|$)", lambda part: f"{part[1]}_", plain)[:MAX_KEY_LENGTH]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
