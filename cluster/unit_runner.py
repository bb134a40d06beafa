"""Tokenising on Ray: the units of a corpus run on Ray Data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from data_shards.errors import DataError
from data_shards.units import Unit
from data_shards.worker import UnitResult

Work = Callable[[Unit], UnitResult]


class UnitTask:
    """Runs a unit in a Ray task. A task whose process dies is run again by Ray, elsewhere if need be.

    Wrong input comes back as a row and not as an exception, which Ray Data would log and wrap.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A unit's row to its result's row; both as JSON, so that Arrow infers no schema from them."""
        try:
            result = self._work(Unit.from_dict(json.loads(row["unit"])))
        except DataError as error:
            return {"result": None, "error": str(error)}
        return {"result": json.dumps(result.to_dict()), "error": None}


def run_units_on_ray(work: Work, units: Sequence[Unit]) -> Iterator[UnitResult]:
    """Results of all units, in whatever order they come. For `data_shards.prepare.prepare`; Ray must be joined.

    Raises:
        DataError: a unit's input is wrong.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = ray.data.from_items([{"unit": json.dumps(unit.to_dict())} for unit in units], override_num_blocks=len(units))
    for row in rows.map(UnitTask(work), num_cpus=1).iter_rows():
        if row["error"] is not None:
            raise DataError(row["error"])
        yield UnitResult.from_dict(json.loads(row["result"]))
