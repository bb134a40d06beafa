"""DeepSpeed's configuration from ours. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.batch import BatchPlan
from trainer.errors import TrainError
from trainer.settings import TrainSettings

OWNED = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.micro_batch_size and train.global_batch_size",
    "gradient_clipping": "train.grad_clip",
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "zero_optimization.stage": "train.zero.stage",
    "zero_optimization.offload_optimizer": "train.zero.offload",
    "zero_optimization.offload_param": "train.zero.offload",
    "fp16.enabled": "train.precision",
    "bf16.enabled": "train.precision",
    "data_types": "train.precision",
    "zero_optimization.compute_grad_norm": "train.on_bad_numbers",
    "bf16.check_grad_overflow": "train.on_bad_numbers",
    "zero_allow_untested_optimizer": "train.optimizer",
    "managed_gradient_accumulation": "train.micro_batch_size",
    "activation_checkpointing": "train.activation_checkpointing",
    "checkpoint": "the checkpoint section",
    "elasticity": "cluster.workers",
}

LARGEST_BUCKET = 500_000_000


def _has(document: Mapping[str, Any], dotted: str) -> bool:
    value: Any = document
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def check_passthrough(extra: Mapping[str, Any]) -> None:
    """Refuse what Headrace owns in `train.deepspeed`.

    Raises:
        TrainError: naming the field that sets it instead.
    """
    for dotted, instead in OWNED.items():
        if _has(extra, dotted):
            raise TrainError(
                f"train.deepspeed.{dotted}: Headrace sets this itself, so that order, resume and checkpoints stay "
                f"exact. Use {instead} instead."
            )


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def engine_stage(stage: int, offload: str, world_size: int, precision: str) -> int:
    """The stage that the engine runs at. One rank has nothing to share out: in fp32 it trains at stage 0, which copies
    no gradients and no masters."""
    return 0 if world_size == 1 and precision == "fp32" and offload == "none" else stage


def deepspeed_config(train: TrainSettings, plan: BatchPlan, precision: str, parameters: int) -> dict[str, Any]:
    """The dictionary that `deepspeed.initialize` takes.

    DeepSpeed allocates its buckets in full at the start, 2 GB each by default in fp32, so a model smaller than that
    gets buckets of its own size. Gradients of bf16 runs accumulate in fp32 from stage 1 on; DeepSpeed refuses that for
    stage 0.

    Raises:
        TrainError: `train.deepspeed` sets what Headrace owns.
    """
    check_passthrough(train.deepspeed)
    stage = engine_stage(train.zero.stage, train.zero.offload, plan.world_size, precision)
    passes = plan.accumulation * (2 if train.adversarial else 1)  # DeepSpeed counts backward passes
    config: dict[str, Any] = {
        "train_batch_size": plan.micro_batch * passes * plan.world_size,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": train.grad_clip,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": min(parameters, LARGEST_BUCKET),
            "allgather_bucket_size": min(parameters, LARGEST_BUCKET),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    if precision != "fp32":
        config[precision] = {"enabled": True}
    elif stage in (1, 2):
        # Either way the whole bucket is summed on all ranks; so it is done in place, without two copies of gradients.
        config["zero_optimization"]["reduce_scatter"] = False
    if precision == "bf16" and stage > 0:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merge(config, train.deepspeed)
