"""Muon (Jordan et al. 2024): momentum whose matrices are made nearly orthogonal before they are added to the weights.

DeepSpeed's own (`deepspeed.runtime.zero.muon`) makes gradients orthogonal before it takes their norm and clips them,
and keeps its moment elsewhere at each stage; PyTorch's takes whole matrices alone. This one steps, as AdamW does, on
whatever part of a flat buffer a rank has, and brings whole matrices together for the moment that it needs them, as in
Liu et al. 2025, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import TrainError
from trainer.settings import OptimizerSettings
from trainer.slots import Master, Slot

_QUINTIC = (3.4445, -4.7750, 2.0315)  # as published: the steepest at 0 that keeps singular values near 1
_LEAST_NORM = 1e-7


def orthogonalized(matrix_ab: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """U V^T of the matrix's singular value decomposition U S V^T, roughly: S becomes values from about 0.7 to 1.2.

    matrix_ab: [A, B]; the result is [A, B] in `dtype`, in which the `steps` Newton-Schulz iterations are made.
    """
    a, b, c = _QUINTIC
    is_tall = matrix_ab.shape[0] > matrix_ab.shape[1]
    x = (matrix_ab.T if is_tall else matrix_ab).to(dtype)
    x = x / x.norm().clamp(min=_LEAST_NORM)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def update_scale(rows: int, columns: int, adjust_lr: str) -> float:
    """What an orthogonal [rows, columns] is multiplied by.

    match_rms_adamw: its elements then have the root mean square of AdamW's updates, 0.2 (Liu et al. 2025, 2.2).
    """
    if adjust_lr == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


class Muon(torch.optim.AdamW):
    """Muon on the groups that say `muon: True`, on the others fused AdamW.

    The state of a master under Muon is that of AdamW without the second moment: `exp_avg` is the momentum.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        lr: float,
        settings: OptimizerSettings,
        shapes: Mapping[str, tuple[int, int]],
        blocks: Mapping[str, tuple[int, ...]],
    ) -> None:
        """shapes: of Muon's matrices by name; blocks: the rows of those that are several matrices in one."""
        super().__init__(groups, lr=lr, betas=settings.betas, eps=settings.eps, fused=True)
        self._settings = settings
        self._shapes = shapes
        self._blocks = blocks
        self._masters: dict[int, Master] | None = None
        self._split: frozenset[str] = frozenset()

    def bind(self, masters: Sequence[Master]) -> None:
        """Tell where the parameters lie, once it is settled; all ranks call it together, before the first step."""
        self._masters = {id(master.tensor): master for master in masters}
        slots = [slot for master in masters for slot in master.slots if slot.name in self._shapes]
        parts: list[Any] = [slot.name for slot in slots if slot.length < math.prod(self._shapes[slot.name])]
        if dist.is_initialized():
            of_all: list[list[str]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(of_all, parts)
            parts = [name for names in of_all for name in names]
        self._split = frozenset(parts)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of whatever tensors the groups hold now: DeepSpeed steps on one after the other.

        A gradient that `found_inf` (as torch.amp.GradScaler sets it) calls bad changes nothing.
        """
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon", False)]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        for group in groups:
            for tensor in group["params"] if group.get("muon", False) else ():
                if tensor.grad is not None:
                    self._step_on(tensor, tensor.grad, group)

    def _step_on(self, tensor: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        if self._masters is None:
            if gradient.any():
                raise TrainError("train.optimizer: Muon was asked for a step before it was told where its matrices lie")
            return  # DeepSpeed's, in fp16 and bf16 at stage 0, to have states made: `prepare_optimizer` makes them
        master, state = self._masters[id(tensor)], self.state[tensor]
        momentum = self._settings.momentum
        moment, gradient = state["exp_avg"].view(-1), gradient.reshape(-1)
        moment.lerp_(gradient, 1 - momentum)
        direction = gradient.lerp(moment, momentum) if self._settings.nesterov else moment
        state["step"] += 1
        weights = tensor.detach().view(-1)
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        for slot, update in self._updates(master, direction):
            weights.narrow(0, slot.offset, slot.length).add_(update, alpha=-group["lr"])

    def _updates(self, master: Master, direction: Tensor) -> list[tuple[Slot, Tensor]]:
        """For each slot the part of its matrix's update that falls to it, 1-D."""
        slots = {slot.name: slot for slot in master.slots}
        found = [
            (slot, self._update(name, direction.narrow(0, slot.offset, slot.length)))
            for name, slot in slots.items()
            if name not in self._split
        ]
        split = [name for name in master.names if name in self._split]
        ranks = dist.get_world_size() if split else 1
        for first in range(0, len(split), ranks):
            whole = self._shared_updates(split[first : first + ranks], slots, direction)
            found += [(slots[name], _part(whole[name], slots[name])) for name in whole if name in slots]
        return found

    def _shared_updates(self, names: Sequence[str], slots: Mapping[str, Slot], direction: Tensor) -> dict[str, Tensor]:
        """Updates of matrices of which the ranks have parts, one for each rank to make; all ranks call it together.

        The parts are summed in a buffer of zeros, which changes no bit of them.
        """
        buffers = {}
        for owner, name in enumerate(names):
            buffers[name] = direction.new_zeros(math.prod(self._shapes[name]))
            if name in slots:
                slot = slots[name]
                _part(buffers[name], slot).copy_(direction.narrow(0, slot.offset, slot.length))
            dist.reduce(buffers[name], dst=owner)
        rank = dist.get_rank()
        if rank < len(names):
            buffers[names[rank]] = self._update(names[rank], buffers[names[rank]])
        for owner, name in enumerate(names):
            dist.broadcast(buffers[name], src=owner)
        return buffers

    def _update(self, name: str, direction: Tensor) -> Tensor:
        """What -lr times is added to a whole matrix, flattened, fp32. Made in bf16 on GPUs, which have it in fast."""
        dtype = torch.bfloat16 if direction.is_cuda else torch.float32
        rows, columns = self._shapes[name]
        parts = torch.split(direction.view(rows, columns), list(self._blocks.get(name, (rows,))))
        settings = self._settings
        made = [
            orthogonalized(part, settings.ns_steps, dtype).to(direction.dtype)
            * update_scale(len(part), columns, settings.adjust_lr)
            for part in parts
        ]
        return torch.cat(made).view(-1)


def _part(whole: Tensor, slot: Slot) -> Tensor:
    return whole.narrow(0, slot.start, slot.length)
