"""The sections of the run file that the trainer owns: `train`, `eval` and `checkpoint`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.config import checkpoint_period
from model.errors import ModelError
from model.lora_settings import LoRASettings

FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Normalize = Literal["tokens", "fragments"]
"""What the training loss is the mean of."""

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class OptimizerSettings(BaseModel):
    """AdamW (Loshchilov & Hutter 2019), or Muon (Jordan et al. 2024) on the blocks' matrices and AdamW on the rest."""

    model_config = FROZEN

    name: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: on the blocks' matrices; embeddings, head, norms and biases keep adamw"
    )
    betas: tuple[float, float] = Field((0.9, 0.95), description="adamw: decay rates of the two moments")
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="on matrices (two dimensions and more) alone")
    momentum: float = Field(0.95, ge=0, lt=1, description="muon: decay rate of its one moment")
    nesterov: bool = Field(True, description="muon: step from the moment as the next gradient would find it")
    ns_steps: int = Field(5, ge=1, le=20, description="muon: Newton-Schulz iterations that make a matrix orthogonal")
    adjust_lr: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="muon: match_rms_adamw scales updates to AdamW's size, so that one lr suits all (Liu et al. 2025); "
        "original multiplies lr by sqrt(max(1, rows / columns)) alone, for rates about 20 times AdamW's",
    )

    @field_validator("betas")
    @classmethod
    def _betas_below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both betas must lie in [0, 1)")
        return betas


class LossSettings(BaseModel):
    """What the training loss is the mean of, and what is added to it."""

    model_config = FROZEN

    normalize: Normalize = Field(
        "tokens",
        description="tokens: the mean over the batch's tokens; fragments: the mean over each document's tokens in a "
        "sequence, then over these, so that short documents count as much as long ones",
    )
    z_loss: float = Field(
        0.0,
        ge=0,
        description="adds this times (log Z)^2 to each token's training loss, Z being the softmax's denominator, so "
        "that logits do not drift; 1e-4 in PaLM (Chowdhery et al. 2022)",
    )


class ScheduleSettings(BaseModel):
    """Learning rate over tokens: linear warm-up, then one of four courses down to `min_lr`."""

    model_config = FROZEN

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_ratio: float = Field(0.02, ge=0, lt=1, description="share of the run's tokens spent on warm-up")
    min_lr: float | None = Field(None, ge=0, description="learning rate at the end; default: a tenth of train.lr")
    decay_ratio: float = Field(0.2, gt=0, le=1, description="wsd: share of the tokens over which the rate decays")


class UntilSettings(BaseModel):
    """Where a stage ends: exactly one of the three."""

    model_config = FROZEN

    steps: int | None = Field(None, gt=0, description="optimizer steps of the run")
    tokens: int | None = Field(None, gt=0, description="tokens of the run")
    ratio: float | None = Field(None, gt=0, lt=1, description="share of the run's tokens")

    @model_validator(mode="after")
    def _one_of_three(self) -> UntilSettings:
        given = [name for name in ("steps", "tokens", "ratio") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of steps, tokens, ratio must say where the stage ends; given: {given}")
        return self


class StageSettings(BaseModel):
    """A stage of training. What it does not say is as `train` says. It begins with a fresh optimizer, and its schedule
    runs over its own tokens, warm-up included."""

    model_config = FROZEN

    until: UntilSettings | None = Field(None, description="where it ends; the last stage ends with the run")
    freeze: tuple[str, ...] | None = Field(None, description="patterns of parameters that do not change; [] frees all")
    lr: float | None = Field(None, gt=0, description="highest learning rate")
    schedule: ScheduleSettings | None = None
    layer_decay: float | None = Field(None, gt=0, le=1)


class AdversarialSettings(BaseModel):
    """The fast gradient method on embeddings (Goodfellow et al. 2015; Miyato et al. 2017): each sequence also counts
    with its embeddings moved by `epsilon` along the gradient of its loss."""

    model_config = FROZEN

    epsilon: float = Field(1.0, gt=0, description="length of the perturbation of a sequence")


class ZeroSettings(BaseModel):
    """ZeRO (Rajbhandari et al. 2020): which states are partitioned over the ranks."""

    model_config = FROZEN

    stage: Literal[0, 1, 2, 3] = Field(
        2,
        description="0: nothing, 1: optimizer states, 2: and gradients, 3: and parameters; one rank in fp32 has "
        "nothing to share out and trains at 0",
    )
    offload: Literal["none"] = "none"


class TrainSettings(BaseModel):
    """The `train` section: length, batch, optimizer, precision and how the states are partitioned."""

    model_config = FROZEN

    max_tokens: int | None = Field(None, gt=0, description="length of the run in tokens; or max_steps, or epochs")
    max_steps: int | None = Field(None, gt=0, description="length of the run in optimizer steps")
    epochs: float | None = Field(None, gt=0, description="length of the run in passes over the training split")
    global_batch_size: int = Field(
        gt=0, description="sequences per optimizer step over all ranks; default: the preset's, for GPT-3"
    )
    micro_batch_size: int | Literal["auto"] = Field(
        "auto",
        description="sequences per forward pass of a rank; auto: as many as the memory takes (8 at most on a CPU), and "
        "half as many after a GPU's out-of-memory; changes no result but by rounding, and where dropout is drawn",
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: LossSettings = LossSettings()
    lr: float = Field(gt=0, description="highest learning rate; default: the preset's, for GPT-3")
    schedule: ScheduleSettings = ScheduleSettings()
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each block learns at so much of the rate of the one above it (Clark et al. 2020)"
    )
    freeze: tuple[str, ...] = Field((), description="patterns of parameters that do not change, such as wte.*, h.0.*")
    stages: tuple[StageSettings, ...] = Field((), description="one after the other; default: one")
    lora: LoRASettings | None = None
    adversarial: AdversarialSettings | None = None
    grad_clip: float = Field(1.0, ge=0, description="limit of the global gradient norm; 0 does not clip")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, fp32 on CPU"
    )
    zero: ZeroSettings = ZeroSettings()
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="passed to DeepSpeed; what Headrace owns is refused"
    )
    activation_checkpointing: str = Field(
        "none",
        description="what the backward pass makes again to save memory. none: nothing; selective: all but the outputs "
        "of attention and matrix products; full: all but each block's input; full_cpu: the same with that kept in the "
        "host's memory; every_K: as full, in every K-th block",
    )
    compile: bool = Field(
        False,
        description="compile the model by torch.compile: a minute at the start for faster steps; needs g++, and "
        "zero.stage 0, 1 or 2",
    )
    on_bad_numbers: Literal["skip", "rollback", "stop"] = Field(
        "stop",
        description="what follows a loss or gradient that is no number, or a spike; its update is never made. skip: "
        "leave the step's sequences out and try the step again with the next ones; rollback: go back to the newest "
        "good checkpoint and leave them out; stop: end with a checkpoint and a diagnosis",
    )
    spike_deviations: float | None = Field(
        None, gt=0, description="a loss this many deviations above the running median is a spike; null: none is"
    )
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="how much a text's loss counts by its class: balanced makes all classes weigh the same in sum; or "
        "a weight by class name, 1 where none is given; for records with a class",
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
        try:
            checkpoint_period(mode)
        except ModelError:
            raise ValueError(
                "must be none, selective, full, full_cpu or every_K with K at least 1, such as every_2"
            ) from None
        return mode

    @model_validator(mode="after")
    def _compiled_at_a_stage_that_can_be(self) -> TrainSettings:
        if self.compile and self.zero.stage == 3:
            raise ValueError(
                "compile: true needs zero.stage 0, 1 or 2, since DeepSpeed's gathering of parameters at stage 3 "
                "cuts the code in pieces that are compiled over and over; lower zero.stage, or set compile: false"
            )
        return self

    @property
    def names_parameters(self) -> bool:
        """Whether a pattern may be there that is to match the model's parameters."""
        return bool(self.freeze or self.stages or self.lora)

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

    @model_validator(mode="after")
    def _stages_that_end(self) -> TrainSettings:
        for index, stage in enumerate(self.stages):
            is_last = index == len(self.stages) - 1
            if is_last != (stage.until is None):
                rule = "must have no until, it ends with the run" if is_last else "must say where it ends: add until"
                raise ValueError(f"stages.{index}: {'the last stage' if is_last else 'a stage'} {rule}")
            train = self.of_stage(index)
            if train.min_lr > train.lr:
                raise ValueError(f"stages.{index}: schedule.min_lr ({train.min_lr}) must not exceed lr ({train.lr})")
        return self

    def of_stage(self, index: int) -> TrainSettings:
        """The settings of a stage: its own in place of the run's."""
        if not self.stages:
            return self
        names = ("freeze", "lr", "schedule", "layer_decay")
        own = {name: getattr(self.stages[index], name) for name in names}
        given = {name: value for name, value in own.items() if value is not None}
        return self.model_copy(update={**given, "stages": ()})


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
