"""The `train.lora` section of a run file. Without torch, so that a driver can read a run file without loading it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LoRASettings(BaseModel):
    """Low-rank adapters (Hu et al. 2021) beside linear layers; all else is frozen, and export merges them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(8, gt=0, description="width of the adapters")
    alpha: float = Field(16.0, gt=0, description="the adapters' output is multiplied by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("*.attn.c_attn",), min_length=1, description="patterns of linear layers' names, such as *.attn.* or h.0.mlp.*"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapters' input")
    also_train: tuple[str, ...] = Field(
        ("score.*",), description="patterns of parameters that are trained beside the adapters: a new head"
    )

    @property
    def scale(self) -> float:
        """Factor of the adapters' output."""
        return self.alpha / self.rank
