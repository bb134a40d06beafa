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

    workers: int | Literal["auto"] = Field("auto", description="training processes; auto: every GPU, or two on CPUs")
    gpus_per_worker: int | Literal["auto"] = Field("auto", description="0 or 1; auto: 1 where the cluster has GPUs")
    cpus_per_worker: int | Literal["auto"] = Field("auto", description="CPUs that Ray reserves per worker; auto: 1")
    max_failures: int = Field(
        10, ge=0, description="replacements of ranks that a gang may make, and restarts of the gang by Ray Train"
    )
    max_preemptions: int = Field(100, ge=0, description="restarts after nodes were taken away")
    hang_seconds: float = Field(30.0, gt=0, description="silence after which a rank counts as dead")

    @field_validator("workers", "cpus_per_worker", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError("must be a number or auto; a range of workers is not supported in this version")
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_rank_a_gpu(cls, value: int | str) -> int | str:
        if value not in (0, 1, "auto"):
            raise ValueError("must be 0, 1 or auto, since each rank drives one GPU")
        return value


class Resources(BaseModel):
    """What a gang asks of Ray, with every `auto` resolved."""

    model_config = ConfigDict(frozen=True)

    workers: int
    gpus_per_worker: int
    cpus_per_worker: int
    threads: int  # of each rank


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
        asked = resources.workers * per_worker
        if asked > total:
            raise ClusterError(
                f"cluster.workers: {resources.workers} workers of {per_worker} {what} need {asked}, and the cluster "
                f"has {total}. Lower cluster.workers, or add nodes."
            )


def _auto(asked: int | Literal["auto"], automatic: int) -> int:
    return automatic if asked == "auto" else asked


def resolve_resources(settings: ClusterSettings, gpus: int, cores: int | None) -> Resources:
    """The gang for a cluster that has so many GPUs. Pure.

    Args:
        cores: of the one machine that all workers share, over which their threads are spread; None on a cluster,
            where each worker has as many threads as Ray reserves CPUs for it.
    """
    gpus_per_worker = _auto(settings.gpus_per_worker, 1 if gpus else 0)
    workers = _auto(settings.workers, max(gpus, 1) if gpus_per_worker else DEFAULT_CPU_WORKERS)
    cpus = _auto(settings.cpus_per_worker, 1)
    threads = cpus
    if settings.cpus_per_worker == "auto" and cores is not None:
        threads = max(1, cores // workers)
    return Resources(workers=workers, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus, threads=threads)
