"""Bytes of a rank of DeepSpeed alone, with Headrace's configuration, or of FSDP2.

Options: kind (deepspeed or fsdp2), model, deepspeed, out. One sequence a rank; AdamW; gradients are clipped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.train.counting import CountedTensors, count_steps
from model.config import GPTConfig
from model.gpt import GPT

Step = Callable[[int], None]
RATE = 1e-3


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """As Headrace has it."""
    return torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), fused=True)


def deepspeed_step(model: GPT, rows_bt: Tensor, asked: dict[str, Any]) -> Step:
    """A step of a DeepSpeed engine."""
    import deepspeed

    vars(deepspeed.ops)["__compatible_ops__"] = {}
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model), config=asked["deepspeed"])

    def step(number: int) -> None:
        loss = engine(rows_bt[:, :-1], rows_bt[:, 1:]) / rows_bt[:, 1:].numel()
        engine.backward(loss)
        engine.step()

    return step


def fsdp2_step(model: GPT, rows_bt: Tensor, asked: dict[str, Any]) -> Step:
    """A step of torch's fully_shard: each block, then the rest, as its tutorial does it."""
    from torch.distributed.fsdp import fully_shard

    for block in model.h:
        fully_shard(block)
    fully_shard(model)
    optimizer = adamw(model)

    def step(number: int) -> None:
        loss = model(rows_bt[:, :-1], rows_bt[:, 1:]) / rows_bt[:, 1:].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


KINDS = {"deepspeed": deepspeed_step, "fsdp2": fsdp2_step}


def main() -> None:
    """Leave the bytes in a file."""
    asked = json.loads(sys.argv[-1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(7)
    config = GPTConfig.from_dict(asked["model"])
    with CountedTensors() as live:
        rows_bt = torch.randint(config.real_vocab_size, (1, config.max_seq_len + 1))
        found = count_steps(live, KINDS[asked["kind"]](GPT(config), rows_bt, asked))
    Path(asked["out"], f"bytes-{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
