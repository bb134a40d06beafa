"""Where a DeepSpeed engine keeps the fp32 masters that its optimizer steps on, in five ways by stage and precision.

stage 0, fp32         torch.optim.AdamW         the parameters themselves, on every rank
stage 0, bf16, fp16   FP16_UnfusedOptimizer     one fp32 copy of each parameter, on every rank
stage 1, 2            DeepSpeedZeroOptimizer    a rank's part of each group's flat buffer
stage 1, bf16 with fp32 gradients   BF16_Optimizer   the same
stage 3               DeepSpeedZeroOptimizer_Stage3   a rank's part of every parameter, padded, joined to sub groups
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from trainer.errors import TrainError


@dataclass(frozen=True)
class Slot:
    """Elements [start, start + length) of parameter `name` are elements [offset, offset + length) of `master`."""

    name: str
    start: int
    length: int
    master: torch.Tensor  # fp32, any shape: the tensor that the optimizer steps on
    offset: int
    group: int  # index of the optimizer's parameter group


@dataclass(frozen=True)
class Master:
    """A tensor that the optimizer steps on. Every rank has as many, in the same order, with the same names."""

    tensor: torch.Tensor
    names: tuple[str, ...]  # of the parameters that have elements in it, on this rank or on another
    slots: tuple[Slot, ...]  # what this rank's tensor has of them


def is_replicated(engine: Any) -> bool:
    """Whether every rank holds all masters: at stage 0."""
    return isinstance(engine.optimizer, (FP16_UnfusedOptimizer, torch.optim.AdamW))


def torch_optimizer(engine: Any) -> torch.optim.AdamW:
    """The optimizer within DeepSpeed's. Raises TrainError if it is not of ours."""
    optimizer = engine.optimizer
    inner = optimizer if isinstance(optimizer, torch.optim.AdamW) else getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, torch.optim.AdamW):
        raise TrainError(f"train.optimizer: a checkpoint needs torch.optim.AdamW, found {type(inner).__name__}")
    return inner


def slots(engine: Any) -> list[Slot]:
    """Everything that this rank holds, in the order of the optimizer's groups. Raises as `masters` does."""
    return [slot for master in masters(engine) for slot in master.slots]


def masters(engine: Any) -> list[Master]:
    """The tensors that the engine's optimizer steps on. Raises TrainError if they are not in fp32."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        found = list(_stage3_masters(optimizer, names))
    elif isinstance(optimizer, DeepSpeedZeroOptimizer):
        parts = optimizer.single_partition_of_fp32_groups
        found = list(_flat_masters(optimizer.bit16_groups, optimizer.bit16_groups_flat, parts, optimizer, names))
    elif isinstance(optimizer, BF16_Optimizer):
        parts = optimizer.fp32_groups_flat_partition
        found = list(_flat_masters(optimizer.bf16_groups, optimizer.bf16_groups_flat, parts, optimizer, names))
    elif isinstance(optimizer, FP16_UnfusedOptimizer):
        found = list(_replicated_masters(optimizer.fp16_groups, optimizer.fp32_groups, names))
    else:
        groups = [[p for p in group["params"] if p.requires_grad] for group in torch_optimizer(engine).param_groups]
        found = list(_replicated_masters(groups, groups, names))
    for master in found:
        if master.tensor.dtype != torch.float32:
            first, dtype = master.names[0], master.tensor.dtype
            raise TrainError(f"train.deepspeed: master weights must be float32, {first!r} has {dtype}")
    return found


def _replicated_masters(
    working: Sequence[Sequence[torch.nn.Parameter]],
    copies: Sequence[Sequence[torch.Tensor]],
    names: Mapping[torch.nn.Parameter, str],
) -> Iterator[Master]:
    for index, (parameters, group) in enumerate(zip(working, copies, strict=True)):
        for parameter, master in zip(parameters, group, strict=True):
            name = names[parameter]
            yield Master(master, (name,), (Slot(name, 0, parameter.numel(), master, 0, index),))


def _flat_masters(
    groups: Sequence[Sequence[torch.nn.Parameter]],
    flats: Sequence[torch.Tensor],
    parts: Sequence[torch.Tensor],
    optimizer: Any,
    names: Mapping[torch.nn.Parameter, str],
) -> Iterator[Master]:
    """Stages 1 and 2: a group's parameters are views of one flat buffer, of which the ranks master equal parts.

    The place of a parameter is read off its address and not from `_hp_mapping`, which goes by the order of the group
    and is wrong where the buffer has another (round_robin_gradients).
    """
    for index, (parameters, flat, master) in enumerate(zip(groups, flats, parts, strict=True)):
        rank = torch.distributed.get_rank(group=optimizer.real_dp_process_group[index])
        low, high = rank * master.numel(), (rank + 1) * master.numel()
        held = []
        for parameter in parameters:
            at = (parameter.data_ptr() - flat.data_ptr()) // flat.element_size()
            begin, end = max(at, low), min(at + parameter.numel(), high)
            if begin < end:
                held.append(Slot(names[parameter], begin - at, end - begin, master, begin - low, index))
        yield Master(master, tuple(names[parameter] for parameter in parameters), tuple(held))


def _stage3_masters(optimizer: Any, names: Mapping[torch.nn.Parameter, str]) -> Iterator[Master]:
    """Stage 3: every rank has an equal part of each parameter; the last parts are padding in part or whole."""
    rank = torch.distributed.get_rank(group=optimizer.dp_process_group)
    for index, parameters in enumerate(optimizer.fp16_groups):
        master = optimizer.fp32_partitioned_groups_flat[index]
        group = optimizer.sub_group_to_group_id[index]
        offset, held = 0, []
        for parameter in parameters:
            part = parameter.partition_numel()
            length = min(part, parameter.ds_numel - rank * part)
            if length > 0:
                held.append(Slot(names[parameter], rank * part, length, master, offset, group))
            offset += part
        yield Master(master, tuple(names[parameter] for parameter in parameters), tuple(held))
