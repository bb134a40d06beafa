"""DeepSpeed's side of a checkpoint: where an engine keeps master weights and moments, and how they are put back.

DeepSpeed keeps them in five ways, by stage and precision. Each is described by slots: a slot is a span of a flattened
parameter and the place of its fp32 master in the tensor that the optimizer steps on. All else works on slots.

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

import deepspeed
import torch
import torch.distributed
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from trainer.checkpoint.fragments import KINDS, Fragment, Snapshot
from trainer.checkpoint.load import CheckpointReader
from trainer.errors import TrainError

_SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


@dataclass(frozen=True)
class Slot:
    """Elements [start, start + length) of parameter `name` are elements [offset, offset + length) of `master`."""

    name: str
    start: int
    length: int
    master: torch.Tensor  # fp32, any shape: the tensor that the optimizer steps on
    offset: int
    group: int  # index of the optimizer's parameter group


def prepare_optimizer(engine: Any) -> None:
    """Give a fresh engine's optimizer its state: moments of zeros and a count of 0. Call it right after `initialize`.

    AdamW makes its state at the first step, too late for a load or a save at step 0. And at stage 0 in bf16 and fp16
    DeepSpeed makes it by a step with zero gradients, which decays the masters and counts one update: undone here.
    """
    slots = _slots(engine)
    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):
        _restart_unfused(engine.optimizer)
    for slot in slots:
        _state_of(engine, slot)


def owned_fragments(engine: Any) -> list[Fragment]:
    """The fragments that this rank saves. Together the ranks' fragments hold every trainable element exactly once.

    At stage 0 every rank holds everything and rank 0 owns it.
    """
    if _is_replicated(engine) and torch.distributed.get_rank() != 0:
        return []
    return held_fragments(engine)


def held_fragments(engine: Any) -> list[Fragment]:
    """All that this rank holds; at stage 0 that is everything on every rank."""
    return [_fragment(engine, slot) for slot in _slots(engine)]


def snapshot(engine: Any, rank_tensors: Mapping[str, torch.Tensor] | None = None) -> Snapshot:
    """What this rank contributes to a checkpoint; all ranks call it together. Its tensors are views: save before the
    next step. `rank_tensors` are kept for this rank alone (states of random number generators)."""
    parameters = _parameters(engine)
    frozen = {name: parameter for name, parameter in parameters.items() if not parameter.requires_grad}
    return Snapshot(
        shapes=parameter_shapes(engine, trainable=True),
        fragments=owned_fragments(engine),
        frozen={name: _gathered(parameter) for name, parameter in frozen.items()},
        buffers=_buffers(engine),
        rank_tensors=rank_tensors or {},
        loss_scale=loss_scale_state(engine),
    )


def restore(engine: Any, reader: CheckpointReader) -> None:
    """Put a checkpoint's weights, moments, update counts and loss scale into an engine; all ranks call it together.

    Afterwards the working parameters agree with the masters on all ranks. Raises TrainError if the checkpoint is of
    another model.
    """
    buffers = _buffers(engine)
    shapes, frozen = parameter_shapes(engine, trainable=True), parameter_shapes(engine, trainable=False)
    reader.check_model(shapes, frozen, {name: tuple(buffer.shape) for name, buffer in buffers.items()})
    for slot in _slots(engine):
        fragment = _fragment(engine, slot)
        for kind in KINDS:
            reader.read_into(getattr(fragment, kind), slot.name, kind, slot.start)
        _state_of(engine, slot)["step"].fill_(reader.step(slot.name))
    _restore_frozen(_parameters(engine), frozen, reader)
    for name, buffer in buffers.items():
        buffer.copy_(reader.buffer(name))
    _publish_masters(engine)
    set_loss_scale_state(engine, reader.manifest.loss_scale)


def finish_restore(engine: Any, updates: Sequence[float], loss_scale: Mapping[str, Any] | None) -> None:
    """After new values were put into `held_fragments`: their update counts, the working parameters, the loss scale.

    All ranks call it together.
    """
    for slot, count in zip(_slots(engine), updates, strict=True):
        _state_of(engine, slot)["step"].fill_(count)
    _publish_masters(engine)
    set_loss_scale_state(engine, loss_scale)


def parameter_shapes(engine: Any, *, trainable: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the trainable (or of the frozen) parameters by name, tied ones once, also where ZeRO-3 hides them."""
    parameters = _parameters(engine).items()
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in parameters if p.requires_grad is trainable}


def loss_scale_state(engine: Any) -> dict[str, Any] | None:
    """State of the dynamic loss scale; None where there is none (fp32, bf16, a fixed scale)."""
    scaler = _dynamic_scaler(engine)
    if scaler is None:
        return None
    return {field: getattr(scaler, field) for field in _SCALER_FIELDS if hasattr(scaler, field)}


def set_loss_scale_state(engine: Any, saved: Mapping[str, Any] | None) -> None:
    """Go on with a saved loss scale; nothing happens where either run has none. Stages 1 to 3 have hysteresis too."""
    scaler = _dynamic_scaler(engine)
    if scaler is None or saved is None:
        return
    for field, value in saved.items():
        if field in _SCALER_FIELDS and hasattr(scaler, field):
            setattr(scaler, field, value)


def _dynamic_scaler(engine: Any) -> Any | None:
    optimizer = engine.optimizer
    config = getattr(optimizer, "loss_scale_config", None)  # stage 0
    if config is not None:
        return config if config.dynamic_loss_scale else None
    scaler = getattr(optimizer, "loss_scaler", None)  # stages 1 to 3
    return scaler if scaler is not None and scaler.dynamic else None


def _parameters(engine: Any) -> dict[str, torch.nn.Parameter]:
    return dict(engine.module.named_parameters())


def _buffers(engine: Any) -> dict[str, torch.Tensor]:
    kept = engine.module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in engine.module.named_buffers() if name in kept}


def _is_replicated(engine: Any) -> bool:
    return isinstance(engine.optimizer, (FP16_UnfusedOptimizer, torch.optim.AdamW))


def _torch_optimizer(engine: Any) -> torch.optim.AdamW:
    optimizer = engine.optimizer
    inner = optimizer if isinstance(optimizer, torch.optim.AdamW) else getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, torch.optim.AdamW):
        raise TrainError(f"train.optimizer: a checkpoint needs torch.optim.AdamW, found {type(inner).__name__}")
    return inner


def _slots(engine: Any) -> list[Slot]:
    """Everything that this rank holds, in the order of the optimizer's groups."""
    names = {parameter: name for name, parameter in _parameters(engine).items()}
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        slots = list(_stage3_slots(optimizer, names))
    elif isinstance(optimizer, DeepSpeedZeroOptimizer):
        masters = optimizer.single_partition_of_fp32_groups
        slots = list(_flat_slots(optimizer.bit16_groups, optimizer.bit16_groups_flat, masters, optimizer, names))
    elif isinstance(optimizer, BF16_Optimizer):
        masters = optimizer.fp32_groups_flat_partition
        slots = list(_flat_slots(optimizer.bf16_groups, optimizer.bf16_groups_flat, masters, optimizer, names))
    elif isinstance(optimizer, FP16_UnfusedOptimizer):
        slots = list(_replicated_slots(optimizer.fp16_groups, optimizer.fp32_groups, names))
    else:
        groups = [[p for p in group["params"] if p.requires_grad] for group in _torch_optimizer(engine).param_groups]
        slots = list(_replicated_slots(groups, groups, names))
    for slot in slots:
        if slot.master.dtype != torch.float32:
            raise TrainError(f"train.deepspeed: master weights must be float32, {slot.name!r} has {slot.master.dtype}")
    return slots


def _replicated_slots(
    working: Sequence[Sequence[torch.nn.Parameter]],
    masters: Sequence[Sequence[torch.Tensor]],
    names: Mapping[torch.nn.Parameter, str],
) -> Iterator[Slot]:
    for index, (parameters, copies) in enumerate(zip(working, masters, strict=True)):
        for parameter, master in zip(parameters, copies, strict=True):
            yield Slot(names[parameter], 0, parameter.numel(), master, 0, index)


def _flat_slots(
    groups: Sequence[Sequence[torch.nn.Parameter]],
    flats: Sequence[torch.Tensor],
    masters: Sequence[torch.Tensor],
    optimizer: Any,
    names: Mapping[torch.nn.Parameter, str],
) -> Iterator[Slot]:
    """Stages 1 and 2: a group's parameters are views of one flat buffer, of which the ranks master equal parts.

    The place of a parameter is read off its address and not from `_hp_mapping`, which goes by the order of the group
    and is wrong where the buffer has another (round_robin_gradients).
    """
    for index, (parameters, flat, master) in enumerate(zip(groups, flats, masters, strict=True)):
        rank = torch.distributed.get_rank(group=optimizer.real_dp_process_group[index])
        low, high = rank * master.numel(), (rank + 1) * master.numel()
        for parameter in parameters:
            at = (parameter.data_ptr() - flat.data_ptr()) // flat.element_size()
            begin, end = max(at, low), min(at + parameter.numel(), high)
            if begin < end:
                yield Slot(names[parameter], begin - at, end - begin, master, begin - low, index)


def _stage3_slots(optimizer: Any, names: Mapping[torch.nn.Parameter, str]) -> Iterator[Slot]:
    """Stage 3: every rank has an equal part of each parameter; the last parts are padding in part or whole."""
    rank = torch.distributed.get_rank(group=optimizer.dp_process_group)
    for index, parameters in enumerate(optimizer.fp16_groups):
        master = optimizer.fp32_partitioned_groups_flat[index]
        offset = 0
        for parameter in parameters:
            part = parameter.partition_numel()
            length = min(part, parameter.ds_numel - rank * part)
            if length > 0:
                group = optimizer.sub_group_to_group_id[index]
                yield Slot(names[parameter], rank * part, length, master, offset, group)
            offset += part


def _fragment(engine: Any, slot: Slot) -> Fragment:
    state = _state_of(engine, slot)
    views = {kind: _view(slot.master if kind == "master" else state[kind], slot) for kind in KINDS}
    return Fragment(slot.name, slot.start, **views, step=float(state["step"]))


def _view(tensor: torch.Tensor, slot: Slot) -> torch.Tensor:
    return tensor.detach().view(-1).narrow(0, slot.offset, slot.length)


def _state_of(engine: Any, slot: Slot) -> dict[str, torch.Tensor]:
    """AdamW's state of the slot's tensor, made as AdamW makes it where there is none yet."""
    optimizer = _torch_optimizer(engine)
    state: dict[str, torch.Tensor] = optimizer.state[slot.master]
    if not state:
        group = optimizer.param_groups[slot.group]
        on_device = bool(group["fused"] or group["capturable"])
        device = slot.master.device if on_device else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["exp_avg"] = torch.zeros_like(slot.master.detach())
        state["exp_avg_sq"] = torch.zeros_like(slot.master.detach())
    return state


def _restart_unfused(optimizer: Any) -> None:
    for working, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for parameter, master in zip(working, masters, strict=True):
            master.data.copy_(parameter.data)
            for value in optimizer.optimizer.state[master].values():
                value.zero_()


def _publish_masters(engine: Any) -> None:
    """Set the working parameters from the masters on all ranks, by what the optimizer does at the end of a step."""
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        optimizer._partition_all_parameters()
        for index in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
        optimizer.invalidate_secondary_tensor()
    elif isinstance(optimizer, (DeepSpeedZeroOptimizer, BF16_Optimizer)):
        optimizer.update_lp_params()
    elif isinstance(optimizer, FP16_UnfusedOptimizer):
        for working, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(working, masters, strict=True):
                parameter.data.copy_(master.data)


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A frozen parameter whole; at stage 3 all ranks must call together."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _restore_frozen(
    parameters: Mapping[str, torch.nn.Parameter], frozen: Mapping[str, tuple[int, ...]], reader: CheckpointReader
) -> None:
    for name, shape in frozen.items():
        value = reader.frozen(name).view(shape)
        if not hasattr(parameters[name], "ds_id"):
            parameters[name].data.copy_(value)
            continue
        with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0):
            if torch.distributed.get_rank() == 0:
                parameters[name].data.copy_(value)
