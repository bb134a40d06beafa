"""The arms of the comparison of saves, and how large it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checkpoint.blocks import run_steps
from benchmarks.faults.dataset import DEMO, demo_dataset, demo_model
from benchmarks.harness.environment import ROOT
from model.config import GPTConfig
from model.flops import parameter_count

HEADRACE, TORCH_SAVE = "headrace", "torch.save + fsync"
DCP_THREAD, DCP_CACHED = "DCP async, thread", "DCP async, thread, cached staging"
DCP_PROCESS = "DCP async, process"
DCP = (DCP_THREAD, DCP_CACHED, DCP_PROCESS)
DEEPSPEED, DEEPSPEED_DECOUPLED = "DeepSpeed save_checkpoint", "DeepSpeed decoupled writer"
WORLDS = (1, 2)
SHAPE = {"n_layer": 5, "n_head": 8, "n_embd": 512, "max_seq_len": 128}  # 20 million parameters, 240 MB of state
QUICK_SHAPE = {"n_layer": 1, "n_head": 4, "n_embd": 128, "max_seq_len": 64}
BYTES_PER_PARAMETER = 12  # fp32 master weight and two moments
BATCH = 2
PYTHON_WRITER = {"type": "PYTHON", "decoupled": True}

PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    TORCH_SAVE: ("torch_save.py", {}),
    DCP_THREAD: ("dcp_async.py", {"by": "thread"}),
    DCP_CACHED: ("dcp_async.py", {"by": "cached"}),
    DCP_PROCESS: ("dcp_async.py", {"by": "process"}),
    DEEPSPEED: ("deepspeed_save.py", {"packages": ["deepspeed"]}),
    DEEPSPEED_DECOUPLED: ("deepspeed_save.py", {"packages": ["deepspeed"], "writer": PYTHON_WRITER}),
}
ARMS = (HEADRACE, *PEERS)
MAY_NOT_WORK = (DEEPSPEED_DECOUPLED,)
"""Releases of DeepSpeed have this writer that cannot use it: told in the report, and no failure of the benchmark."""


@dataclass(frozen=True)
class Plan:
    """Sizes and places. block: steps with a save, then as many without; pairs: of such blocks that are counted."""

    work: Path
    peers_python: str
    repetitions: int = 5
    pairs: int = 4
    block: int = 10
    deadline_seconds: float = 600.0
    shape: Mapping[str, int] = field(default_factory=lambda: SHAPE)

    @property
    def steps(self) -> int:
        """Steps of a timed run."""
        return run_steps(self.pairs, self.block)

    @property
    def state_bytes(self) -> int:
        """What a checkpoint has to hold."""
        model = GPTConfig.from_dict(demo_model(demo_dataset(self.work), **self.shape))
        return BYTES_PER_PARAMETER * parameter_count(model)

    @property
    def out(self) -> Path:
        """What the run under way writes to."""
        return self.work / "checkpoint-run"


def full(work: Path, peers_python: str) -> Plan:
    """What the published figures come from."""
    return Plan(work, peers_python)


def quick(work: Path, peers_python: str) -> Plan:
    """Two repetitions of one counted save: rough."""
    return Plan(work, peers_python, repetitions=2, pairs=1, block=5, shape=QUICK_SHAPE)


def command(plan: Plan, arm: str, world: int, verify: bool) -> list[str]:
    """What each rank of an arm runs."""
    steps, block = (run_steps(1, 2), 2) if verify else (plan.steps, plan.block)
    common = {"out": str(plan.out), "steps": steps, "block": block, "verify": verify}
    if arm == HEADRACE:
        changes = run_file_changes(plan, world, steps, block)
        script = ROOT / "benchmarks/checkpoint/own/training.py"
        return [sys.executable, str(script), json.dumps({**common, "file": str(DEMO), "set": changes})]
    script_name, more = PEERS[arm]
    shape = {
        "model": demo_model(demo_dataset(plan.work), **plan.shape),
        "batch": BATCH,
        "seq_len": plan.shape["max_seq_len"],
    }
    script = ROOT / "benchmarks/checkpoint/peers" / script_name
    return [plan.peers_python, str(script), json.dumps({**common, **shape, **more})]


def run_file_changes(plan: Plan, world: int, steps: int, block: int) -> list[str]:
    """The demo's run file, made this run by `--set`."""
    changes = {
        "name": "saves",
        "out_dir": plan.out,
        "data.dir": demo_dataset(plan.work),
        **{f"model.{name}": value for name, value in plan.shape.items()},
        "train.global_batch_size": BATCH,
        "train.micro_batch_size": BATCH // world,
        "train.max_tokens": steps * BATCH * plan.shape["max_seq_len"],
        "eval.interval": 1_000_000,
        "eval.max_tokens": 1024,
        "eval.samples": "[]",
        "checkpoint.interval": 2 * block,
        "checkpoint.dir": plan.out / "saved",
    }
    return [f"{name}={value}" for name, value in changes.items()]
