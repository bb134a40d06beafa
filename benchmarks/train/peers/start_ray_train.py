"""Ray Train as its documentation has it: a TorchTrainer around DistributedDataParallel; the task's address, or a Ray
of its own."""

import json
import os
import sys
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

WORKERS = 2


def train_loop(asked: dict[str, Any]) -> None:
    """A worker: the same loop as DDP's."""
    import torch
    from common import Task, build_model, build_optimizer, plain_loop
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    task = Task(**asked)
    model = prepare_model(build_model(task))
    plain_loop(model, model.parameters(), build_optimizer(model, task), task)


def main() -> None:
    """Train on the task."""
    asked = json.loads(sys.argv[-1])
    environment = {"PYTHONPATH": os.environ["PYTHONPATH"], "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    common = {"log_to_driver": False, "runtime_env": {"env_vars": environment}}
    if asked["address"] is None:
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, **common)
    else:
        ray.init(address=asked["address"], **common)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config=asked,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(storage_path=asked["out"]),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
