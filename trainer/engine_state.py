"""DeepSpeed's side of a checkpoint: master weights and moments taken from an engine and put back, by `trainer.slots`.

AdamW keeps two moments of each master, Muon one: its fragments have a second moment of no elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from trainer.muon import Muon
from trainer.slots import Slot, is_replicated, masters, slots, torch_optimizer

_SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def prepare_optimizer(engine: Any) -> None:
    """Give a fresh engine's optimizer its state: moments of zeros and a count of 0. Call it right after `initialize`.

    AdamW makes its state at the first step, too late for a load or a save at step 0. And at stage 0 in bf16 and fp16
    DeepSpeed makes it by a step with zero gradients, which decays the masters and counts one update: undone here.
    """
    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):
        _restart_unfused(engine.optimizer)
    for slot in slots(engine):
        _state_of(engine, slot)
    optimizer = torch_optimizer(engine)
    if isinstance(optimizer, Muon):
        optimizer.bind(masters(engine))


def owned_fragments(engine: Any) -> list[Fragment]:
    """The fragments that this rank saves. Together the ranks' fragments hold every trainable element exactly once.

    At stage 0 every rank holds everything and rank 0 owns it.
    """
    if is_replicated(engine) and torch.distributed.get_rank() != 0:
        return []
    return held_fragments(engine)


def held_fragments(engine: Any) -> list[Fragment]:
    """All that this rank holds; at stage 0 that is everything on every rank."""
    return [_fragment(engine, slot) for slot in slots(engine)]


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


def restore(engine: Any, reader: CheckpointReader, stage: int = 0) -> None:
    """Put a checkpoint's weights, moments, update counts and loss scale into an engine; all ranks call it together.

    Into the engine of another `stage` than the checkpoint's go its weights alone, trained or frozen: the optimizer
    begins anew. Afterwards the working parameters agree with the masters on all ranks. Raises TrainError if the
    checkpoint is of another model.
    """
    buffers, is_other = _buffers(engine), reader.manifest.header.stage != stage
    shapes, frozen = parameter_shapes(engine, trainable=True), parameter_shapes(engine, trainable=False)
    shapes_of_buffers = {name: tuple(buffer.shape) for name, buffer in buffers.items()}
    reader.check_model(shapes, frozen, shapes_of_buffers, of_other_stage=is_other)
    for slot in slots(engine):
        fragment = _fragment(engine, slot)
        if is_other:
            reader.read_weights_into(fragment.master, slot.name, slot.start)
            _begin_anew(engine, slot)
            continue
        for kind in KINDS:
            reader.read_into(getattr(fragment, kind), slot.name, kind, slot.start)
        _state_of(engine, slot)["step"].fill_(reader.step(slot.name))
    restore_frozen(engine, reader)
    for name, buffer in buffers.items():
        buffer.copy_(reader.buffer(name))
    _publish_masters(engine)
    set_loss_scale_state(engine, reader.manifest.loss_scale)


def restore_frozen(engine: Any, reader: CheckpointReader) -> None:
    """Put a checkpoint's weights into the engine's frozen parameters alone; all ranks call it together."""
    for name, shape in parameter_shapes(engine, trainable=False).items():
        value = torch.empty(shape, dtype=torch.float32)
        reader.read_weights_into(value.view(-1), name, 0)
        set_frozen(engine, name, value)


def set_frozen(engine: Any, name: str, value: torch.Tensor) -> None:
    """Set a frozen parameter, in its own shape, on all ranks; at stage 3 they call it together."""
    parameter = _parameters(engine)[name]
    if not hasattr(parameter, "ds_id"):
        parameter.data.copy_(value)
        return
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.data.copy_(value)


def finish_restore(engine: Any, updates: Sequence[float], loss_scale: Mapping[str, Any] | None) -> None:
    """After new values were put into `held_fragments`: their update counts, the working parameters, the loss scale.

    All ranks call it together.
    """
    for slot, count in zip(slots(engine), updates, strict=True):
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


def _fragment(engine: Any, slot: Slot) -> Fragment:
    state = _state_of(engine, slot)
    tensors = {**state, "master": slot.master}
    views = {kind: _view(tensors[kind], slot) for kind in KINDS if kind in tensors}
    if "exp_avg_sq" not in views:
        views["exp_avg_sq"] = slot.master.new_empty(0)
    return Fragment(slot.name, slot.start, **views, step=float(state["step"]))


def _view(tensor: torch.Tensor, slot: Slot) -> torch.Tensor:
    return tensor.detach().view(-1).narrow(0, slot.offset, slot.length)


def _state_of(engine: Any, slot: Slot) -> dict[str, torch.Tensor]:
    """The optimizer's state of the slot's tensor, made as AdamW makes it where there is none yet, for Muon less."""
    optimizer = torch_optimizer(engine)
    state: dict[str, torch.Tensor] = optimizer.state[slot.master]
    if not state:
        group = optimizer.param_groups[slot.group]
        on_device = bool(group["fused"] or group["capturable"])
        device = slot.master.device if on_device else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["exp_avg"] = torch.zeros_like(slot.master.detach())
        if not group.get("muon", False):
            state["exp_avg_sq"] = torch.zeros_like(slot.master.detach())
    return state


def _begin_anew(engine: Any, slot: Slot) -> None:
    for value in _state_of(engine, slot).values():
        value.zero_()


def _restart_unfused(optimizer: Any) -> None:
    for working, copies in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for parameter, master in zip(working, copies, strict=True):
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
        for working, copies in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(working, copies, strict=True):
                parameter.data.copy_(master.data)


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A frozen parameter whole; at stage 3 all ranks must call together."""
    if not hasattr(parameter, "ds_id"):
        return parameter.detach()
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()
