"""The runs of a comparison, from their folders and from MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from monitoring.columns import Columns
from monitoring.compare import Comparison, compare_summaries, flatten
from monitoring.errors import MonitoringError
from monitoring.history import Fence, read_fence
from monitoring.journal_columns import read_journal
from monitoring.run_summary import RunSummary, summarise_columns
from monitoring.runs import RunFolder
from monitoring.store import open_store
from monitoring.store_columns import KEYS, columns_of_points, split_by_run
from monitoring.stored_run import StoredRun
from monitoring.translate import GOODPUT_TAG


@dataclass(frozen=True)
class ComparedRun:
    """A run to be compared: its numbers, and its settings by dotted key."""

    summary: RunSummary
    settings: Mapping[str, Any]


def compare(runs: Sequence[RunFolder]) -> Comparison:
    """Compares runs from their folders; MonitoringError if one has no journal or a broken one."""
    return compare_runs([from_folder(run) for run in runs])


def compare_runs(runs: Sequence[ComparedRun]) -> Comparison:
    """Compares runs that were read."""
    return compare_summaries([run.summary for run in runs], [run.settings for run in runs])


def from_folder(run: RunFolder) -> ComparedRun:
    """A run from its journal, with the settings of its newest attempt; MonitoringError if it has no journal."""
    columns = read_journal(run.out_dir)
    summary = summarise_columns(run.name, run.run_id, columns, read_fence(run.out_dir))
    return ComparedRun(summary, settings_of(columns) or flatten(run.settings()))


def settings_of(columns: Columns) -> dict[str, Any]:
    """The settings that the newest attempt told, without what followed from the machine; empty if none started."""
    starts = columns.of("start")
    params = starts[-1].get("params", {}) if starts else {}
    return {key: value for key, value in params.items() if not key.startswith("resolved.")}


def search(tracking_uri: str, text: str, folders: Sequence[RunFolder]) -> list[ComparedRun]:
    """The runs that MLflow's filter finds, oldest first: from their folders where those are here, else from the store.

    MonitoringError for a filter that is none, a store that cannot be read, or where nothing is found.
    """
    store = open_store(tracking_uri)
    found = list(reversed(store.search(text)))
    if not found:
        raise MonitoringError(
            f"--search: must find a run, found none by {text!r} in {tracking_uri}; parameters are the run file's "
            f"fields, as in params.`train.lr` = '0.001'"
        )
    here = {run.run_id: run for run in folders}
    away = [run for run in found if run.run_id not in here]
    points = split_by_run(store.points(away, KEYS), len(away)) if away else []
    of_store = {run.mlflow_run_id: from_points(run, each) for run, each in zip(away, points, strict=True)}
    return [of_store.get(run.mlflow_run_id) or from_folder(here[run.run_id]) for run in found]


def from_points(run: StoredRun, points: Mapping[str, Any]) -> ComparedRun:
    """A run from its points. What its time went into over several attempts, its own tag tells, or nothing does."""
    columns = columns_of_points(run, points)
    summary = summarise_columns(run.name, run.run_id, columns, Fence())
    if len(columns.of("start")) > 1:
        told = run.tags.get(GOODPUT_TAG)
        summary = replace(summary, goodput=None if told is None else float(told), spent_seconds={})
    settings = {key: _value(text) for key, text in run.params.items() if not key.startswith("resolved.")}
    return ComparedRun(summary, settings)


@lru_cache(maxsize=4096)  # the runs of a search share most of theirs
def _value(text: str) -> Any:
    """A parameter's value: MLflow has texts as they are and everything else as JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
