"""Tokenising on Ray: the units of a corpus as Ray tasks, and those that kill their workers with care.

Tasks and not Ray Data, which starts a second later, takes twice the processor time beside the workers (9 against 4
percent of a core: two workers on two cores are 1.91 of one at best), and lets a task die a number of times only by an
argument that it is about to drop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from cluster.ray_session import cluster_total
from data_shards.errors import DataError
from data_shards.units import Unit
from data_shards.worker import UnitResult, UnitWorker

logger = logging.getLogger(__name__)

# A unit whose worker process died so often is run with `careful`.
MAX_DEATHS = 3
# A task has one CPU; libraries that would start as many threads as the machine has cores are told so.
TASK_ENVIRONMENT = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
DEATHS = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


def run_units_on_ray(work: UnitWorker, units: Sequence[Unit]) -> Iterator[UnitResult]:
    """Results of all units, in whatever order they come, the largest units first. Ray must be joined.

    For `data_shards.prepare.prepare`. A task has one CPU, so a node runs as many as it has CPUs. A unit whose process
    died is run again; after `MAX_DEATHS` deaths its documents are tried apart, so that one that kills is found.

    Raises:
        DataError: a unit's input is wrong, or ends whatever process reads it.
        Exception: what a worker raised otherwise (a full disk); Ray's error, with the worker's stack, is its cause.
    """
    left = {unit.key: unit for unit in units}
    for result in _run_tasks(work, units):
        del left[result.key]
        yield result
    if not left:
        return
    logger.warning(
        "%d units lost their worker process %d times; their documents are now tried apart to find what kills it: %s",
        len(left),
        MAX_DEATHS,
        _files(left.values()),
    )
    for result in _run_tasks(replace(work, careful=True), list(left.values())):
        del left[result.key]
        yield result
    if left:
        raise DataError(
            f"{_files(left.values())}: whatever reads it dies, {2 * MAX_DEATHS} times now, and no document does it "
            "alone: leave out the file, or see what ends the workers (memory, signals)"
        )


def _run_tasks(work: UnitWorker, units: Sequence[Unit]) -> Iterator[UnitResult]:
    """Results of the units, but for those whose process died `MAX_DEATHS` times."""
    task = ray.remote(num_cpus=1, max_retries=MAX_DEATHS - 1, scheduling_strategy="SPREAD")(run_unit)
    largest_last = sorted(units, key=lambda unit: unit.text_bytes)
    running: list[ray.ObjectRef[UnitResult]] = []
    while largest_last or running:
        # Twice what can run at once: no CPU waits for the driver, and a cluster that can grow sees that it should.
        while largest_last and len(running) < 2 * max(1, cluster_total("CPU")):
            running.append(task.remote(work, largest_last.pop()))
        done, running = ray.wait(running)
        try:
            yield ray.get(done[0])
        except DEATHS as error:
            logger.debug("a unit's worker died %d times: %s", MAX_DEATHS, error)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error


def run_unit(work: UnitWorker, unit: Unit) -> UnitResult:
    """A task: one unit on one CPU."""
    os.environ.update(TASK_ENVIRONMENT)  # before the encoder starts its threads
    return work(unit)


def _files(units: Iterable[Unit]) -> str:
    first, *others = dict.fromkeys(piece.file.path for unit in units for piece in unit.pieces)
    return f"{first} and {len(others)} more files" if others else first
