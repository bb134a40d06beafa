"""One training gang on Ray: supervisors placed by Ray Train, each of which keeps one rank alive.

Ray Train places and starts a gang, and tells of its end. What follows is cluster.restarts' to decide.
"""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Collection
from typing import Any, Literal

import ray
import ray.exceptions
import ray.train
import ray.util
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.driver_cord import Cord, hold_on
from cluster.gang_folder import GangFolder, Place, Verdict
from cluster.gang_trainer import GangTrainer
from cluster.gang_worker import MEETING, take_zygote
from cluster.policy import LOST_KINDS, Diagnosis
from cluster.restarts import GangEnded, Start
from cluster.settings import Resources
from cluster.snapshot_keeper_actor import fetch_snapshot_memory
from cluster.spec import GangFailed, GangSpec
from cluster.supervisor import supervise
from monitoring.system_metrics import node_monitoring

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LONGEST_REASON = 300  # characters of what Ray says
NODE_ID_LABEL = "ray.io/node-id"
EXPECTED_ERRORS = (ray.exceptions.RayError, TrainingFailedError, RayTrainError, OSError, GangFailed)
"""What a gang's end looks like to the driver where a worker, a node or the cluster is lost, or has too little room."""


def make_gang_spec(
    name: str,
    out_dir: str,
    run_spec: dict[str, Any],
    hang_seconds: float | Literal["auto"],
    max_failures: int,
    token: str,
    sample_seconds: float | None = None,
) -> GangSpec:
    """What the supervisors of a gang share; token: the command's secret, which their connections show."""
    # A fork of a process with a pool of threads hangs; ranks set their threads themselves.
    env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return GangSpec(
        name=name,
        out_dir=out_dir,
        run_spec=run_spec,
        token=token,
        hang_seconds=hang_seconds,
        max_failures=max_failures,
        sample_seconds=sample_seconds,
        env=env,
        keeps_memory=run_spec.get("device") == "cpu",
    )


def supervise_on_ray(config: dict[str, Any]) -> None:
    """What Ray Train runs on each worker; rank 0 leaves the verdict.

    A loss is raised as well, since Ray Train then ends the gang at once, though rank 0 may be gone without a word.
    """
    hold_on(config["driver"])
    spec, folder = GangSpec.from_dict(config["gang"]), GangFolder(config["folder"])
    context = ray.train.get_context()
    rank, address = context.get_world_rank(), ray.util.get_node_ip_address()
    node_id = ray.get_runtime_context().get_node_id()
    folder.write_place(Place(rank, node_id, address, os.getpid()))
    memory = fetch_snapshot_memory(spec.token, rank, context.get_world_size())
    try:
        with node_monitoring(spec.out_path, address, None if context.get_local_rank() else spec.sample_seconds):
            outcome = supervise(
                spec,
                rank,
                context.get_world_size(),
                share_address=MEETING.share,
                # On one machine nothing needs to listen beyond its loopback.
                host=LOOPBACK if config["driver"][0] == LOOPBACK else address,
                node=address,
                local_rank=context.get_local_rank(),
                local_world_size=context.get_local_world_size(),
                raylet_pid=os.getppid(),
                memory=memory,
                zygote=take_zygote(),
                # Again and again, since Ray sets a name of its own with each call to the worker.
                on_tick=lambda: ray._raylet.setproctitle(f"headrace: supervisor {rank} of {spec.name}"),
            )
    except GangFailed as failure:
        if rank == 0:
            folder.write_verdict(_verdict_of(failure.diagnosis))
        if not failure.diagnosis.final:
            raise
    else:
        if rank == 0:
            folder.write_verdict(Verdict(outcome.status))


def _verdict_of(diagnosis: Diagnosis) -> Verdict:
    """Wrong input is told in its own words alone; any other failure with the rank's last lines."""
    death = diagnosis.death
    text = diagnosis.reason if diagnosis.kind == "input" else diagnosis.text()
    if death is None:
        return Verdict("failed", diagnosis.kind, text)
    kind = "fenced" if death.kind == "fenced" else "loss" if death.kind in LOST_KINDS else diagnosis.kind
    return Verdict("failed", kind, text, death.rank)


def run_gang(
    spec: GangSpec,
    start: Start,
    folder: GangFolder,
    cord: Cord,
    unsure: Collection[str],
    resources: Resources,
) -> GangEnded:
    """Run one gang to its end on the cluster that this process has joined; how it ended, but for step and restarts.

    Args:
        folder: the gang's, removed at its end; cord: what the workers hold on to; unsure: ids of nodes that
            Ray takes for alive and that do not answer.
    """
    config = {"gang": spec.to_dict(), "folder": folder.path, "driver": cord.address}
    error = _fit(_trainer(spec, config, start.workers, start.left_out | set(unsure), resources))
    verdict, places = folder.verdict(), folder.places()
    folder.remove()
    if verdict is None:
        verdict = _verdict_of_ray(error)
    node = next((place.node_id for place in places if place.rank == verdict.rank), None)
    return GangEnded(verdict.status, 0, kind=verdict.kind, text=verdict.text, node=node)


def _trainer(
    spec: GangSpec, config: dict[str, Any], workers: int, left_out: Collection[str], resources: Resources
) -> GangTrainer:
    return GangTrainer(
        supervise_on_ray,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker=resources.per_worker,
            label_selector={NODE_ID_LABEL: f"!in({', '.join(sorted(left_out))})"} if left_out else None,
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(spec.out_path / "ray"),
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
        ),
    )


def _fit(trainer: GangTrainer) -> Exception | None:
    """Ray Train's error, if the gang did not end well; whatever goes wrong in its controller ends the gang alone.

    The controller runs in this process: an error that neither Ray nor a worker raised is a fault of this program, and
    is told with its trace.
    """
    try:
        trainer.fit()
    except Exception as error:
        cause = getattr(error, "controller_failure", error)
        level = logging.DEBUG if isinstance(cause, EXPECTED_ERRORS) else logging.ERROR
        logger.log(level, "Ray Train ended with an error", exc_info=cause)
        failed: Exception = error
        return failed
    return None


def _verdict_of_ray(error: Exception | None) -> Verdict:
    """The verdict where rank 0 left none: it is lost, or the gang was never whole."""
    if isinstance(error, ray.train.ControllerError):
        return Verdict("failed", "placement", f"Ray could not start the workers: {_first_line(error)}")
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        if isinstance(failure, GangFailed) and failure.diagnosis.death is not None:
            return _verdict_of(failure.diagnosis)
    dead = [rank for rank, failure in sorted(failures.items()) if _is_death(failure)]
    own = {rank: failure for rank, failure in failures.items() if not isinstance(failure, GangFailed)}
    if not dead and failures and not own and 0 not in failures:
        dead = [0]  # the others lost its coordinator, and it left no word
    if dead:
        return Verdict("failed", "loss", f"lost the supervisor of rank {dead[0]}: {_first_line(error)}", dead[0])
    blamed = min(own or failures, default=None)
    why = _first_line(error if blamed is None else failures[blamed])
    return Verdict("failed", "infrastructure", f"Ray Train gave up: {why}", blamed)


def _is_death(failure: BaseException) -> bool:
    """Whether a worker's process is gone, as against having raised something."""
    return isinstance(getattr(failure, "health_check_failure", failure), ray.exceptions.RayActorError)


def _first_line(error: BaseException | None) -> str:
    """What went wrong, without the traces of all processes that Ray puts around it."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return textwrap.shorten(lines[-1], LONGEST_REASON) if lines else type(first).__name__
