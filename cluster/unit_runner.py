"""Tokenising on Ray: the units of a corpus run on Ray Data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
import ray.data
import ray.exceptions

from data_shards.errors import DataError
from data_shards.units import Unit
from data_shards.worker import UnitResult

Work = Callable[[Unit], UnitResult]


class UnitTask:
    """Runs a unit in a Ray task. A task whose process dies is run again by Ray, elsewhere if need be."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A unit's row to its result's row; both as JSON, so that Arrow infers no schema from them."""
        return {"result": json.dumps(self._work(Unit.from_dict(json.loads(row["unit"]))).to_dict())}


def run_units_on_ray(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
    """Results of all units, in whatever order they come. For `data_shards.prepare.prepare`; Ray must be joined."""
    return _results(work, units)


def _results(work: Work, units: Sequence[Unit]) -> Iterator[UnitResult]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = ray.data.from_items([{"unit": json.dumps(unit.to_dict())} for unit in units], override_num_blocks=len(units))
    results = rows.map(UnitTask(work), num_cpus=1)
    try:
        for row in results.iter_rows():
            yield UnitResult.from_dict(json.loads(row["result"]))
    except ray.exceptions.RayTaskError as error:
        raise _data_error(error) or error from error


def _data_error(error: BaseException | None) -> DataError | None:
    """The wrong input that a worker found, out of what Ray wrapped it in."""
    while error is not None:
        if isinstance(error, DataError):
            return DataError(str(error.args[0]))
        error = getattr(error, "cause", None) or error.__cause__
    return None
