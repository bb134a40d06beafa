"""Ray Train with DeepSpeed, as Ray's guide shows it: a report with a checkpoint of `save_checkpoint` every so many
steps, `FailureConfig` for restarts, `get_checkpoint` at the start."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

sys.path.insert(0, str(Path(__file__).parent))
import training


def train_loop(asked: dict[str, Any]) -> None:
    """One rank."""
    rank = ray.train.get_context().get_world_rank()
    sys.path.insert(0, asked["scripts"])
    import training

    training.announce(asked, rank)
    import deepspeed
    import torch.distributed as dist

    # It would compile its shared-memory op for minutes, and its searches for compilers cost seconds.
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    gpt = training.build_model(asked)
    configuration = {
        "train_batch_size": asked["batch"],
        "train_micro_batch_size_per_gpu": asked["batch"] // dist.get_world_size(),
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 10**7, "allgather_bucket_size": 10**7},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    optimizer = training.build_optimizer(asked, gpt)
    engine, *_ = deepspeed.initialize(model=gpt, optimizer=optimizer, config=configuration)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            engine.load_checkpoint(folder)
    steps(asked, rank, engine)


def steps(asked: dict[str, Any], rank: int, engine: Any) -> None:
    """Train until somebody ends it."""
    import torch.distributed as dist
    import training

    tokens, log = training.Tokens(asked), training.StepLog(asked, rank)
    while True:
        step = engine.global_steps + 1
        engine.backward(training.loss_of(engine, tokens.own_rows(asked, step, rank, dist.get_world_size())))
        engine.step()
        log.write(step)
        if step % asked["save_every"] == 0:
            with TemporaryDirectory() as folder:
                engine.save_checkpoint(folder)
                dist.barrier()
                ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def main() -> None:
    """The driver."""
    asked = {**training.options(), "scripts": str(Path(__file__).parent)}
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    run_config = ray.train.RunConfig(
        name="run",
        storage_path=str(Path(asked["out"]) / "ray"),
        failure_config=ray.train.FailureConfig(max_failures=1000),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
    )
    TorchTrainer(
        train_loop,
        train_loop_config=asked,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=run_config,
    ).fit()


if __name__ == "__main__":
    main()
