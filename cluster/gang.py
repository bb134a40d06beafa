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
import ray.train
import ray.util
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.settings import ClusterSettings, Resources
from cluster.spec import GangFailed, GangSpec
from cluster.supervisor import supervise

logger = logging.getLogger(__name__)


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
    spec = GangSpec.from_dict(config)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    address = ray.util.get_node_ip_address()
    try:
        outcome = supervise(
            spec,
            rank,
            context.get_world_size(),
            share_address=lambda own: tuple(broadcast_from_rank_zero(own)),
            host=address,
            node=address,
            local_rank=context.get_local_rank(),
            raylet_pid=os.getppid(),
            # Again and again, since Ray sets a name of its own with each call to the worker.
            on_tick=lambda: ray._raylet.setproctitle(f"headrace: supervisor {rank} of {spec.name}"),
        )
    except GangFailed as failure:
        if not failure.diagnosis.final:
            raise
        verdict: dict[str, Any] = {"status": "failed", "kind": failure.diagnosis.kind, "text": failure.diagnosis.text()}
    else:
        verdict = {"status": outcome.status, "step": outcome.step, "restarts": outcome.restarts}
    if rank == 0:
        _write_verdict(spec.out_path, verdict)


def run_gang(spec: GangSpec, settings: ClusterSettings, resources: Resources) -> dict[str, Any]:
    """Train to the end on the cluster that this process has joined; the verdict that rank 0's supervisor wrote.

    Raises:
        ray.train.TrainingFailedError: the budgets for dead supervisors and nodes are used up.
    """
    _verdict_path(spec.out_path).unlink(missing_ok=True)
    per_worker = {"CPU": float(resources.cpus_per_worker)}
    if resources.gpus_per_worker:
        per_worker["GPU"] = float(resources.gpus_per_worker)
    trainer = DataParallelTrainer(
        supervise_on_ray,
        train_loop_config=spec.to_dict(),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=spec.name,
            storage_path=str(spec.out_path / "ray"),
            failure_config=FailureConfig(
                max_failures=settings.max_failures, max_preemption_failures=settings.max_preemptions
            ),
        ),
    )
    trainer.fit()
    verdict: dict[str, Any] = json.loads(_verdict_path(spec.out_path).read_text())
    return verdict
