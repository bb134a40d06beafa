"""The `cluster` section of the run file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cluster.errors import ClusterError
from trainer.config import explain

DEFAULT_CPU_WORKERS = 2


class ClusterSettings(BaseModel):
    """How many workers train, on what, and how many losses a run survives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | Literal["auto"] | tuple[int, int] = Field(
        "auto",
        description=(
            "training processes; auto: every GPU, or two on CPUs; [FEWEST, MOST]: as many as there is room for, fewer "
            "after a loss, more when there is room again"
        ),
    )
    gpus_per_worker: int | Literal["auto"] = Field("auto", description="0 or 1; auto: 1 where the cluster has GPUs")
    cpus_per_worker: int | Literal["auto"] = Field("auto", description="CPUs that Ray reserves per worker; auto: 1")
    max_failures: int = Field(
        10, ge=0, description="restarts that a command may make in all, of ranks within a gang and of whole gangs"
    )
    max_preemptions: int = Field(100, ge=0, description="restarts after nodes were taken away")
    max_driver_restarts: int = Field(
        5, ge=0, description="times that a submitted job starts its driver anew after a signal has ended it"
    )
    wait_seconds: float = Field(600.0, gt=0, description="how long a run waits for room for its workers (the fewest)")
    hang_seconds: float | Literal["auto"] = Field(
        "auto", description="silence after which a rank counts as dead, from 1 s; auto: ten of its steps, 5 to 30 s"
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _range_of_workers(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            numbers = [number for number in value if isinstance(number, int)]
            if len(value) != 2 or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
                raise ValueError("must be a number, auto, or [FEWEST, MOST] with 1 <= FEWEST <= MOST")
        return value

    @field_validator("workers", "cpus_per_worker", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @field_validator("hang_seconds", mode="before")
    @classmethod
    def _longer_than_a_rank_shows(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "auto" and not (is_number and value >= 1):
            raise ValueError("must be a number of seconds from 1 on, or auto")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_rank_a_gpu(cls, value: int | str) -> int | str:
        if value not in (0, 1, "auto"):
            raise ValueError("must be 0, 1 or auto, since each rank drives one GPU")
        return value

    @property
    def worlds(self) -> range:
        """The numbers of workers that a gang may have, as far as the run file alone tells; a single worker for auto."""
        if isinstance(self.workers, tuple):
            return range(self.workers[0], self.workers[1] + 1)
        number = self.workers if isinstance(self.workers, int) else 1
        return range(number, number + 1)


class Resources(BaseModel):
    """What a gang asks of Ray, with every `auto` resolved. workers: the most, min_workers: the fewest."""

    model_config = ConfigDict(frozen=True)

    workers: int
    min_workers: int
    gpus_per_worker: int
    cpus_per_worker: int
    threads: int  # of each rank

    @property
    def per_worker(self) -> dict[str, float]:
        """What Ray reserves for each worker, by its names."""
        gpus = {"GPU": float(self.gpus_per_worker)} if self.gpus_per_worker else {}
        return {"CPU": float(self.cpus_per_worker), **gpus}


def parse_cluster(section: Mapping[str, Any], where: str) -> ClusterSettings:
    """The settings in a run file's `cluster` section; a TrainError names the field, the rule and the value found."""
    try:
        return ClusterSettings.model_validate(dict(section))
    except ValidationError as error:
        raise explain(error, where, ("cluster",), ClusterSettings) from error


def check_fits(resources: Resources, cpus: int, gpus: int) -> None:
    """Refuse a gang that the whole cluster, even idle, could not hold: Ray would wait for it for ever. Pure.

    Raises:
        ClusterError: naming what is asked for and what there is.
    """
    for what, per_worker, total in (
        ("CPUs", resources.cpus_per_worker, cpus),
        ("GPUs", resources.gpus_per_worker, gpus),
    ):
        fewest = resources.min_workers
        asked = fewest * per_worker
        if asked > total:
            raise ClusterError(
                f"cluster.workers: {fewest} workers of {per_worker} {what} need {asked}, and the cluster has {total}. "
                f"Lower cluster.workers, or add nodes."
            )


def _auto(asked: int | Literal["auto"], automatic: int) -> int:
    return automatic if asked == "auto" else asked


def _workers(asked: int | Literal["auto"] | tuple[int, int], automatic: int) -> tuple[int, int]:
    """The fewest and the most."""
    if isinstance(asked, tuple):
        return asked
    number = _auto(asked, automatic)
    return number, number


def resolve_resources(settings: ClusterSettings, gpus: int, cores: int | None) -> Resources:
    """The gang for a cluster that has so many GPUs. Pure.

    Args:
        cores: of the one machine that all workers share, over which their threads are spread; None on a cluster,
            where each worker has as many threads as Ray reserves CPUs for it.
    """
    gpus_per_worker = _auto(settings.gpus_per_worker, 1 if gpus else 0)
    fewest, workers = _workers(settings.workers, max(gpus, 1) if gpus_per_worker else DEFAULT_CPU_WORKERS)
    cpus = _auto(settings.cpus_per_worker, 1)
    threads = cpus
    if settings.cpus_per_worker == "auto" and cores is not None:
        threads = max(1, cores // workers)
    return Resources(
        workers=workers, min_workers=fewest, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus, threads=threads
    )
