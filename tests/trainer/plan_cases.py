"""Models of three sizes, and what is planned and measured of their ranks' memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import GPTConfig
from tests.trainer.worlds import run_jobs
from trainer.config import RunConfig
from trainer.plan_memory import MemoryModel, MemoryPlan, Setting
from trainer.plan_sizes import model_sizes

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 1024, "n_layer": 4, "n_head": 4, "n_embd": 128, "max_seq_len": 64},
    "small": {"vocab_size": 4096, "n_layer": 4, "n_head": 4, "n_embd": 256, "max_seq_len": 128},
    "middle": {"vocab_size": 8192, "n_layer": 6, "n_head": 8, "n_embd": 512, "max_seq_len": 128},
}
ROWS = 2


@dataclass(frozen=True)
class Case:
    """An engine of a shape on some ranks, and how it takes its steps."""

    shape: str
    stage: int
    world_size: int
    precision: str = "fp32"
    accumulation: int = 2
    checkpointing: str = "none"

    @property
    def config(self) -> GPTConfig:
        """The model."""
        fields = SHAPES[self.shape]
        return GPTConfig(
            **fields, real_vocab_size=fields["vocab_size"] - 9, activation_checkpointing=self.checkpointing
        )

    @property
    def train(self) -> dict[str, Any]:
        """The run file's section."""
        return {
            "max_steps": 9,
            "global_batch_size": ROWS * self.accumulation * self.world_size,
            "micro_batch_size": ROWS,
            "lr": 1e-3,
            "zero": {"stage": self.stage},
            "activation_checkpointing": self.checkpointing,
        }

    def job(self) -> dict[str, Any]:
        """What a rank of `tests.trainer.memory_world` is told."""
        return {"model": self.config.to_dict(), "train": self.train, "precision": self.precision}


def run_config(**train: Any) -> RunConfig:
    """A run that nothing but memory is asked of."""
    data = {"sources": [{"path": "a.txt"}], "tokenizer": {"train": "bpe", "vocab_size": 300}}
    return RunConfig.model_validate({"name": "mill", "out_dir": "/nowhere", "data": data, "train": train})


def memory_model(case: Case, device: str = "cpu") -> MemoryModel:
    """What the plan knows of a case."""
    config = run_config(**case.train)
    sizes = model_sizes(case.config, config.train)
    return MemoryModel(config, case.config, sizes, case.precision, device, case.world_size)


def planned(case: Case) -> MemoryPlan:
    """The plan of a case."""
    return memory_model(case).plan(Setting(case.stage, ROWS, case.checkpointing))


def measured(folder: Path, cases: list[Case], deadline_seconds: float) -> dict[Case, dict[str, int]]:
    """`rest` and `peak` of the rank of each case that holds the most."""
    # A job of its own for each: what is left of an engine would be counted with the next.
    jobs = [{"world_size": case.world_size, **case.job()} for case in cases]
    answers = run_jobs("tests.trainer.memory_world", folder, jobs, deadline_seconds)
    return {
        case: {key: max(rank[key] for rank in answer["ranks"]) for key in ("rest", "peak")}
        for case, answer in zip(cases, answers, strict=True)
    }
