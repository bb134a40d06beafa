"""A run's columns from its points in MLflow, where its journal is not at hand. Pure.

MLflow keeps the first value of a step that was run twice, 52 bits of a step's hash, and no word on why an attempt
ended; what a comparison tells from that is what the points hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from monitoring.columns import FLOATS, STEP, Columns, Steps
from monitoring.journal import Record
from monitoring.stored_run import POINT, Points, StoredRun

STEP_KEYS = (*FLOATS, "tokens", "sequence_hash")
EVENT_KEYS = ("attempt", "val_loss", "unigram_loss", "eval_seconds", "checkpoint_stall_seconds")
KEYS = (*STEP_KEYS, *EVENT_KEYS)

_STATUS = {"FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}


def split_by_run(points: Mapping[str, Points], runs: int) -> list[dict[str, Points]]:
    """The points of each run, by metric, sorted by step and time; of a step's several values the first is kept."""
    found: list[dict[str, Points]] = [{} for _ in range(runs)]
    for key, all_points in points.items():
        ordered = _sorted(all_points)
        is_first = np.ones(len(ordered), np.bool_)
        same_run = ordered["run"][1:] == ordered["run"][:-1]
        is_first[1:] = ~(same_run & (ordered["step"][1:] == ordered["step"][:-1]))
        ordered = ordered[is_first]
        borders = np.searchsorted(ordered["run"], np.arange(runs + 1))
        for run in range(runs):
            found[run][key] = ordered[borders[run] : borders[run + 1]]
    return found


def _sorted(points: Points) -> Points:
    """By run, step and time. As a store gives them they are by time, and so mostly by step too."""
    ordered: Points = points[np.argsort(points["run"], kind="stable")]
    run, step, time = ordered["run"], ordered["step"], ordered["time_ms"]
    same_run, same_step = run[1:] == run[:-1], step[1:] == step[:-1]
    rises = np.where(same_step, time[1:] >= time[:-1], step[1:] > step[:-1])
    if np.all(rises | ~same_run):
        return ordered
    return points[np.lexsort((points["time_ms"], points["step"], points["run"]))]


def columns_of_points(run: StoredRun, points: Mapping[str, Points]) -> Columns:
    """The columns of one run, from its points by metric as `split_by_run` gives them."""
    points = {key: points.get(key, np.empty(0, POINT)) for key in KEYS}
    starts = points["attempt"][np.argsort(points["attempt"]["time_ms"], kind="stable")]
    steps = _steps(points, starts)
    events = [*_starts(starts), *_evaluations(points, steps, starts), *_saves(points, starts)]
    if run.status in _STATUS and run.end_time_ms is not None:
        time = run.end_time_ms / 1000
        events.append({"event": "end", "attempt": _attempt(starts, run.end_time_ms), "time": time,
                       "status": _STATUS[run.status]})  # fmt: skip
    events.sort(key=lambda event: (event["attempt"], event["time"]))
    # Where the events stand among the steps does not matter: nothing in MLflow tells of steps that were undone.
    lines = [len(steps) + index if event["event"] == "end" else 0 for index, event in enumerate(events)]
    return Columns(steps, tuple(events), tuple(lines))


def _steps(points: Mapping[str, Points], starts: Points) -> Steps:
    base = points["loss"]
    steps = np.empty(len(base), STEP)
    steps["step"] = base["step"]
    steps["time"] = base["time_ms"] / 1000
    steps["attempt"] = _attempts(starts, base)
    steps["line"] = np.arange(len(base))
    for key in FLOATS:
        steps[key] = _aligned(points[key], base, np.nan)
    steps["tokens"] = _aligned(points["tokens"], base, 0.0).astype(np.int64)
    steps["sequence_hash"] = _aligned(points["sequence_hash"], base, 0.0).astype(np.uint64)
    kept: Steps = steps[np.argsort(steps["attempt"], kind="stable")]
    return kept


def _aligned(points: Points, base: Points, missing: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The values at the steps of `base`."""
    if len(points) == len(base) and np.array_equal(points["step"], base["step"]):
        return np.asarray(points["value"])
    found = np.full(len(base), missing)
    _, at, of = np.intersect1d(base["step"], points["step"], assume_unique=True, return_indices=True)
    found[at] = points["value"][of]
    return found


def _attempts(starts: Points, points: Points) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The attempt in which each point was written: the last that had started."""
    if not len(starts):
        return np.ones(len(points), np.int64)
    index = np.searchsorted(starts["time_ms"], points["time_ms"], side="right") - 1
    return starts["value"].astype(np.int64)[np.maximum(index, 0)]


def _attempt(starts: Points, time_ms: int) -> int:
    point = np.zeros(1, POINT)
    point["time_ms"] = time_ms
    return int(_attempts(starts, point)[0])


def _starts(starts: Points) -> Iterator[Record]:
    for point in starts:
        yield {"event": "start", "attempt": int(point["value"]), "time": point["time_ms"] / 1000,
               "resumed_step": int(point["step"])}  # fmt: skip


def _evaluations(points: Mapping[str, Points], steps: Steps, starts: Points) -> Iterator[Record]:
    tokens = dict(zip(steps["step"].tolist(), steps["tokens"].tolist(), strict=True))
    others = {
        key: dict(zip(points[key]["step"].tolist(), points[key]["value"].tolist(), strict=True))
        for key in ("unigram_loss", "eval_seconds")
    }
    for point in points["val_loss"]:
        step, time_ms = int(point["step"]), int(point["time_ms"])
        if step in tokens:
            yield {"event": "eval", "attempt": _attempt(starts, time_ms), "time": time_ms / 1000, "step": step,
                   "tokens": tokens[step], "val_loss": float(point["value"]),
                   "unigram_loss": others["unigram_loss"].get(step),
                   "seconds": others["eval_seconds"].get(step)}  # fmt: skip


def _saves(points: Mapping[str, Points], starts: Points) -> Iterator[Record]:
    for point in points["checkpoint_stall_seconds"]:
        time_ms = int(point["time_ms"])
        yield {"event": "checkpoint", "attempt": _attempt(starts, time_ms), "time": time_ms / 1000,
               "step": int(point["step"]), "stall_seconds": float(point["value"])}  # fmt: skip
