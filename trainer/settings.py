"""The sections of the run file that the trainer owns: `train`, `eval` and `checkpoint`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class OptimizerSettings(BaseModel):
    """AdamW (Loshchilov & Hutter 2019), with decay on matrices alone."""

    model_config = FROZEN

    name: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay rates of the two moments")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="on matrices (two dimensions and more) alone")

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both betas must lie in [0, 1)")
        return betas


class ScheduleSettings(BaseModel):
    """Learning rate over tokens: linear warm-up, then one of four courses down to `min_lr`."""

    model_config = FROZEN

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_ratio: float = Field(0.02, ge=0, lt=1, description="share of the run's tokens spent on warm-up")
    min_lr: float | None = Field(None, ge=0, description="learning rate at the end; default: a tenth of train.lr")
    decay_ratio: float = Field(0.2, gt=0, le=1, description="wsd: share of the tokens over which the rate decays")


class ZeroSettings(BaseModel):
    """ZeRO (Rajbhandari et al. 2020): which states are partitioned over the ranks."""

    model_config = FROZEN

    stage: Literal[0, 1, 2, 3] = Field(
        2, description="0: nothing, 1: optimizer states, 2: and gradients, 3: and parameters"
    )
    offload: Literal["none"] = "none"


class TrainSettings(BaseModel):
    """The `train` section: length, batch, optimizer, precision and how the states are partitioned."""

    model_config = FROZEN

    max_tokens: int | None = Field(None, gt=0, description="length of the run in tokens; or max_steps, or epochs")
    max_steps: int | None = Field(None, gt=0, description="length of the run in optimizer steps")
    epochs: float | None = Field(None, gt=0, description="length of the run in passes over the training split")
    global_batch_size: int = Field(gt=0, description="sequences per optimizer step over all ranks")
    micro_batch_size: int | Literal["auto"] = Field("auto", description="sequences per forward pass of a rank")
    optimizer: OptimizerSettings = OptimizerSettings()
    lr: float = Field(gt=0, description="highest learning rate")
    schedule: ScheduleSettings = ScheduleSettings()
    grad_clip: float = Field(1.0, ge=0, description="limit of the global gradient norm; 0 does not clip")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, fp32 on CPU"
    )
    zero: ZeroSettings = ZeroSettings()
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="passed to DeepSpeed; what Headrace owns is refused"
    )
    activation_checkpointing: str = Field("none", description="none, full, or every_K: every K-th block is recomputed")
    on_bad_numbers: Literal["skip", "rollback", "stop"] = Field(
        "stop",
        description="what follows a loss or gradient that is no number, or a spike; its update is never made. skip: "
        "leave the step's sequences out and try the step again with the next ones; rollback: go back to the newest "
        "good checkpoint and leave them out; stop: end with a checkpoint and a diagnosis",
    )
    spike_deviations: float | None = Field(
        None, gt=0, description="a loss this many deviations above the running median is a spike; null: none is"
    )
    deterministic: Literal["auto", "on", "off"] = Field("auto", description="bitwise repeatable kernels; auto: on CPU")

    @field_validator("micro_batch_size")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @field_validator("activation_checkpointing")
    @classmethod
    def _known_mode(cls, mode: str) -> str:
        if mode not in ("none", "full") and not re.fullmatch(r"every_[1-9]\d*", mode):
            raise ValueError("must be none, full or every_K with K at least 1, such as every_2")
        return mode

    @property
    def min_lr(self) -> float:
        """Learning rate at the end of the schedule."""
        return self.lr / 10 if self.schedule.min_lr is None else self.schedule.min_lr

    @model_validator(mode="after")
    def _one_length_and_a_falling_rate(self) -> TrainSettings:
        given = [name for name in ("max_tokens", "max_steps", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of max_tokens, max_steps, epochs must say how long to train; given: {given or 'none'}"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"schedule.min_lr ({self.schedule.min_lr}) must not exceed lr ({self.lr})")
        return self


class EvalSettings(BaseModel):
    """The `eval` section: held-out loss and samples while training, and at the end."""

    model_config = FROZEN

    interval: int = Field(100, gt=0, description="optimizer steps between evaluations; one more follows the last step")
    max_tokens: int = Field(65_536, gt=0, description="held-out tokens per evaluation")
    samples: tuple[str, ...] = Field((), description="prompts that are continued after the last step")
    sample_tokens: int = Field(64, gt=0, description="tokens per continuation")


class CheckpointSettings(BaseModel):
    """The `checkpoint` section: where, how often, and how many are kept."""

    model_config = FROZEN

    dir: str | None = Field(
        None,
        description="where checkpoints lie, a folder that all nodes see or an address such as s3://BUCKET/RUN, for "
        "this run alone; default: checkpoints in the run's folder",
    )
    interval: int | str = Field(200, description="optimizer steps, or a time such as 90s, 10m, 1h")
    snapshot_interval: int | Literal["auto"] = Field(
        "auto",
        description="steps between snapshots in the memory of each worker, which a replaced rank goes on from; "
        "auto: as often as costs under 2% of the time; 0: none",
    )
    keep: int = Field(3, ge=2, description="newest checkpoints that are kept; never fewer than two")

    @field_validator("dir")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and not value.strip("/ "):
            raise ValueError("must be a folder or an address such as s3://BUCKET/RUN")
        return value.rstrip("/") if value is not None else None

    @field_validator("interval")
    @classmethod
    def _steps_or_time(cls, value: int | str) -> int | str:
        if isinstance(value, int):
            if value < 1:
                raise ValueError("must be at least 1 step, or a time such as 10m")
        elif not _TIME.fullmatch(value):
            raise ValueError("must be a number of steps, or a time such as 90s, 10m or 1h")
        elif not float(value.rstrip("smh ")):
            raise ValueError("must be longer than no time at all")
        return value

    @field_validator("snapshot_interval")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be at least 1 step, 0 for no snapshots, or auto")
        return value

    def resolved(self, base: Path) -> CheckpointSettings:
        """With `dir` absolute, against the run file's folder; addresses of object stores stay as they are."""
        if self.dir is None or "://" in self.dir:
            return self
        return self.model_copy(update={"dir": str((base / Path(self.dir).expanduser()).resolve())})

    @property
    def interval_steps(self) -> int | None:
        """Steps between checkpoints, or None where a time is given."""
        return self.interval if isinstance(self.interval, int) else None

    @property
    def interval_seconds(self) -> float | None:
        """Seconds between checkpoints, or None where steps are given."""
        if isinstance(self.interval, int):
            return None
        match = _TIME.fullmatch(self.interval)
        assert match is not None
        return float(match[1]) * _SECONDS[match[2]]
