"""DeepSpeed's own `save_checkpoint` at ZeRO stage 2, with its plain writer or with one that its settings name.

It does not sync its files: what it wrote is safe only when the system comes to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import loop
import torch
import torch.distributed as dist


def configuration(asked: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """Stage 2 with buckets of the model's size, as Headrace has it."""
    return {
        "train_batch_size": asked["batch"],
        "train_micro_batch_size_per_gpu": asked["batch"] // dist.get_world_size(),
        "zero_optimization": {"stage": 2, "reduce_bucket_size": parameters, "allgather_bucket_size": parameters},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        **({"checkpoint": {"writer": asked["writer"]}} if asked.get("writer") else {}),
    }


class OwnSave:
    """`engine.save_checkpoint`."""

    def __init__(self, out: Path, engine: Any) -> None:
        self._folder, self._engine = out / "saved", engine

    def save(self, step: int) -> None:
        self._engine.save_checkpoint(str(self._folder), tag=f"step-{step}")

    def hold_still(self) -> None:
        """A writer of its own waits inside the engine."""

    def finish(self) -> Mapping[int, float]:
        return {}

    def load(self, step: int) -> Mapping[str, torch.Tensor]:
        path = self._folder / f"step-{step}" / "mp_rank_00_model_states.pt"
        return dict(torch.load(path, weights_only=False)["module"])


if __name__ == "__main__":
    asked = loop.options()
    loop.join()
    # It would compile its shared-memory op for minutes, and its searches for compilers cost seconds.
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    gpt = loop.build_model(asked)
    size = sum(parameter.numel() for parameter in gpt.parameters())
    engine, *_ = deepspeed.initialize(
        model=gpt, optimizer=loop.build_optimizer(gpt), config=configuration(asked, size), dist_init_required=True
    )

    def one_step(step: int) -> None:
        engine.backward(loop.loss_of(engine, loop.rows(asked, step)))
        engine.step()

    loop.run(asked, one_step, engine.module, OwnSave(Path(asked["out"]), engine))
