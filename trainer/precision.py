"""Which number format a run computes in, and whether the hardware has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import TrainError

if TYPE_CHECKING:
    import torch


def resolve_precision(asked: str, device: str, has_bf16: bool) -> str:
    """fp32, bf16 or fp16 for what the run file asks and the device is. Pure.

    Args:
        asked: `train.precision`.
        device: "cpu" or "cuda".
        has_bf16: whether the device multiplies matrices in bf16.

    Raises:
        TrainError: fp16 on a CPU, or bf16 on a GPU that lacks it.
    """
    if asked == "auto":
        return "bf16" if device == "cuda" and has_bf16 else "fp32"
    if asked == "fp16" and device == "cpu":
        raise TrainError(
            "train.precision: fp16 needs a GPU, since DeepSpeed has no fp16 kernels for this CPU; found fp16 on cpu. "
            "Use fp32 or bf16, or give the workers GPUs."
        )
    if asked == "bf16" and device == "cuda" and not has_bf16:
        raise TrainError(
            "train.precision: bf16 needs a GPU of compute capability 8.0 or later; found one without it. Use fp16."
        )
    return asked


def resolve_here(asked: str, device: torch.device) -> str:
    """`resolve_precision` for a device of this machine."""
    import torch  # here, so that a driver can check a run file without loading it

    return resolve_precision(asked, device.type, device.type == "cuda" and torch.cuda.is_bf16_supported())
