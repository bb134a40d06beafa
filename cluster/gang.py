"""The training gang on Ray: supervisors placed by Ray Train, each of which keeps one rank alive.

Ray Train mends what cannot be mended within the gang: a dead supervisor or node starts the gang again.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.util
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.policy import Diagnosis
from cluster.settings import ClusterSettings, Resources
from cluster.spec import GangFailed, GangSpec
from cluster.supervisor import supervise

logger = logging.getLogger(__name__)

Verdict = dict[str, Any]

PLACEMENT_TRIES = 60
"""So often is a gang placed that finds no room, a minute each: a lost node may be replaced meanwhile."""


def make_gang_spec(name: str, out_dir: str, run_spec: dict[str, Any], settings: ClusterSettings) -> GangSpec:
    """What the supervisors share; with a fresh secret that their connections show."""
    return GangSpec(
        name=name,
        out_dir=out_dir,
        run_spec=run_spec,
        token=secrets.token_hex(16),
        hang_seconds=settings.hang_seconds,
        max_failures=settings.max_failures,
        # A fork of a process with a pool of threads hangs; ranks set their threads themselves.
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )


def _verdict_path(out_dir: Path) -> Path:
    return out_dir / "verdict.json"


def _write_verdict(out_dir: Path, verdict: Mapping[str, Any]) -> None:
    path = _verdict_path(out_dir)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(verdict))
    draft.replace(path)


def supervise_on_ray(config: dict[str, Any]) -> None:
    """What Ray Train runs on each worker.

    A failure that starting the gang again cannot mend is written down, and not raised: Ray Train retries whatever is.
    """
    spec = GangSpec.from_dict(config["gang"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    address = ray.util.get_node_ip_address()
    try:
        outcome = supervise(
            spec,
            rank,
            context.get_world_size(),
            share_address=lambda own: tuple(broadcast_from_rank_zero(own)),
            host="127.0.0.1" if config["is_local"] else address,
            node=address,
            local_rank=context.get_local_rank(),
            local_world_size=context.get_local_world_size(),
            raylet_pid=os.getppid(),
            # Again and again, since Ray sets a name of its own with each call to the worker.
            on_tick=lambda: ray._raylet.setproctitle(f"headrace: supervisor {rank} of {spec.name}"),
        )
    except GangFailed as failure:
        if not failure.diagnosis.final:
            raise
        verdict: dict[str, Any] = {"status": "failed", "kind": failure.diagnosis.kind, "text": _text(failure.diagnosis)}
    else:
        verdict = {"status": outcome.status, "step": outcome.step, "restarts": outcome.restarts}
    if rank == 0:
        _write_verdict(spec.out_path, verdict)


def _text(diagnosis: Diagnosis) -> str:
    """Wrong input is told in its own words alone; any other failure with the rank's last lines."""
    return diagnosis.reason if diagnosis.kind == "input" else diagnosis.text()


def run_gang(spec: GangSpec, settings: ClusterSettings, resources: Resources, is_local: bool) -> Verdict:
    """Train to the end on the cluster that this process has joined; the verdict that rank 0's supervisor wrote.

    `is_local`: all ranks are on this machine, and nothing needs to listen beyond its loopback.
    """
    _verdict_path(spec.out_path).unlink(missing_ok=True)
    per_worker = {"CPU": float(resources.cpus_per_worker)}
    if resources.gpus_per_worker:
        per_worker["GPU"] = float(resources.gpus_per_worker)
    trainer = DataParallelTrainer(
        supervise_on_ray,
        train_loop_config={"gang": spec.to_dict(), "is_local": is_local},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(spec.out_path / "ray"),
            failure_config=FailureConfig(
                max_failures=settings.max_failures,
                max_preemption_failures=settings.max_preemptions,
                controller_failure_limit=PLACEMENT_TRIES,
            ),
        ),
    )
    try:
        trainer.fit()
        verdict: Verdict = json.loads(_verdict_path(spec.out_path).read_text())
    except (ray.train.TrainingFailedError, ray.exceptions.RayError, FileNotFoundError) as error:
        logger.debug("Ray Train ended without a verdict", exc_info=error)
        text = f"Ray Train gave up: {_first_line(error)}"
        return {"status": "failed", "kind": "infrastructure", "text": text}
    return verdict


def _first_line(error: BaseException) -> str:
    """What went wrong, without the traces of all processes that Ray puts around it."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return lines[-1] if lines else type(first).__name__
