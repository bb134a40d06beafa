"""The arms of the training comparison, and one run of one of them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.launch import group, pin_titled, rank_environments
from benchmarks.harness.processes import end_all_below
from benchmarks.train.stamps import SETTINGS
from benchmarks.train.work import Work, run_document
from trainer.allocator import keeping_memory

logger = logging.getLogger(__name__)

PEERS = ROOT / "benchmarks/train/peers"
ARM_SECONDS = 1500.0
START_SECONDS = 300.0
STAGES = (0, 1, 2, 3)
ALONE_STAGES = (0, 2)
"""On one rank: Headrace has one engine for all stages there, and DeepSpeed alone nothing to partition."""

BARE, DDP, LIGHTNING, ACCELERATE, TRANSFORMERS = (
    "bare PyTorch loop",
    "DDP",
    "Lightning",
    "Accelerate",
    "Hugging Face Trainer",
)
BARE_KEEPING, DDP_KEEPING = "bare PyTorch loop, Headrace's allocator settings", "DDP, Headrace's allocator settings"
NANO, NANO_COMPILED = "nanoGPT's loop, eager", "nanoGPT's loop, compiled"
FRAMEWORKS = {LIGHTNING: "lightning", ACCELERATE: "accelerate", TRANSFORMERS: "transformers"}
NO_SNAPSHOTS, TRAINER = "headrace, stage 2, no snapshots", "python -m trainer, stage 2"

Sample = dict[str, Any]  # what one run of an arm gave


def headrace(stage: int) -> str:
    """The name of our arm."""
    return f"headrace, stage {stage}"


def deepspeed(stage: int) -> str:
    """The name of DeepSpeed's arm."""
    return f"DeepSpeed alone, stage {stage}"


@dataclass(frozen=True)
class Arm:
    """One way to do the work on so many ranks.

    kind: a peer's script; `headrace train`; or `python -m trainer`. options: more of the peer's task; settings: of our
    run file, as `--set` takes them; keeps_memory: whether a peer runs with the allocator settings of Headrace's ranks.
    """

    name: str
    ranks: int
    kind: Literal["peer", "headrace", "trainer"]
    script: str = ""
    stage: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    keeps_memory: bool = False


def arms(ranks: int) -> list[Arm]:
    """All arms on so many ranks, ours first."""
    stages = ALONE_STAGES if ranks == 1 else STAGES
    own = [_own(headrace(stage), ranks, "headrace", stage) for stage in (stages if ranks > 1 else stages[-1:])]
    own.append(_own(NO_SNAPSHOTS, ranks, "headrace", 2, "checkpoint.snapshot_interval=0"))
    own.append(_own(TRAINER, ranks, "trainer", 2))
    names, script = ((BARE, BARE_KEEPING), "train_bare.py") if ranks == 1 else ((DDP, DDP_KEEPING), "train_ddp.py")
    peers = [Arm(name, ranks, "peer", script, keeps_memory=name == names[1]) for name in names]
    peers += [Arm(name, ranks, "peer", f"train_{script}.py") for name, script in FRAMEWORKS.items()]
    peers += [Arm(deepspeed(stage), ranks, "peer", "train_deepspeed.py", stage) for stage in stages]
    if ranks == 1:
        peers.append(Arm(NANO, 1, "peer", "train_nanogpt.py"))
        peers.append(Arm(NANO_COMPILED, 1, "peer", "train_nanogpt.py", options={"compile": True}))
    return [*own, *peers]


def _own(name: str, ranks: int, kind: Literal["headrace", "trainer"], stage: int, *more: str) -> Arm:
    return Arm(
        name, ranks, kind, stage=stage, settings=(f"cluster.workers={ranks}", f"train.zero.stage={stage}", *more)
    )


def run_arm(arm: Arm, work: Work) -> Sample:
    """One run in processes of its own. Raises: RuntimeError with the end of what they said."""
    plan = work.plan
    folder = plan.folder / "arm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marks = [min(plan.warm_steps, len(work.rates)), len(work.rates)]
    asked = {"root": os.getpid(), "marks": sorted(set(marks))}
    (folder / SETTINGS).write_text(json.dumps(asked))
    began = time.perf_counter()
    with group(arm.name, folder / "log") as processes:
        if arm.kind == "headrace":
            cores = plan.cores[: arm.ranks]
            processes.start(command(arm, work, folder, asked), frozenset(cores), environment(PEERS))
            if arm.ranks > 1:
                titles = [f"headrace: rank {rank}/{arm.ranks} of bench-train" for rank in range(arm.ranks)]
                pin_titled(titles, cores, START_SECONDS, processes.has_ended)
        else:
            for core, variables in zip(plan.cores, rank_environments(arm.ranks), strict=False):
                own = {**environment(PEERS), **variables, "TORCHINDUCTOR_CACHE_DIR": str(plan.folder / "inductor")}
                own |= keeping_memory({}) if arm.keeps_memory else {}
                processes.start(command(arm, work, folder, asked), frozenset({core}), own)
        processes.wait(ARM_SECONDS)
    end_all_below(os.getpid())  # such as Ray's daemons, on their way out
    sample = read_sample(folder, began)
    logger.info("%s on %d: %.0f s", arm.name, arm.ranks, time.perf_counter() - began)
    return sample


def command(arm: Arm, work: Work, folder: Path, asked: Mapping[str, Any]) -> list[str]:
    """What is run, once for each rank; `headrace train` once."""
    if arm.kind == "peer":
        task = {**work.task(), **asked, "out": str(folder), **arm.options}
        if arm.script == "train_deepspeed.py":
            task["deepspeed"] = work.deepspeed(arm.stage, arm.ranks)
        return [work.plan.peers_python, str(PEERS / arm.script), json.dumps(task)]
    file = folder / "run.yaml"
    file.write_text(json.dumps(run_document(work.plan, work.sequences, len(work.rates), folder / "run")))
    words = [word for setting in arm.settings for word in ("--set", setting)]
    program = ["-m", "cluster.cli", "train"] if arm.kind == "headrace" else ["-m", "trainer"]
    return [sys.executable, *program, str(file), *words]


def shown(arm: Arm) -> str:
    """The command as a person would type it, without the task's paths."""
    if arm.kind == "peer":
        variables = keeping_memory({}) if arm.keeps_memory else {}
        script = f".venv-train-peers/bin/python benchmarks/train/peers/{arm.script} TASK.json"
        typed = " ".join([*(f"{name}={value}" for name, value in variables.items()), script])
    else:
        program = "headrace train" if arm.kind == "headrace" else "python -m trainer"
        typed = " ".join([program, "run.yaml", *(f"--set {setting}" for setting in arm.settings)])
    return typed if arm.kind == "headrace" or arm.ranks == 1 else f"torchrun --nproc-per-node {arm.ranks} {typed}"


def read_sample(folder: Path, began: float) -> Sample:
    """What the ranks' stamps say: losses (the mean of the ranks'), seconds of each step's end since `began`, CPU."""
    ranks = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
    if not ranks:
        raise RuntimeError(f"no rank has left stamps: {(folder / 'log').read_text(errors='replace')[-2000:]}")
    losses = [sum(step) / len(ranks) for step in zip(*(rank["losses"] for rank in ranks), strict=True)]
    first = ranks[0]
    return {
        "losses": losses,
        "seconds": [stamp - began for stamp in first["seconds"]],
        "cpu": {mark: {**cpu, "rank": [r["cpu"][mark]["rank"] for r in ranks]} for mark, cpu in first["cpu"].items()},
    }


def timed_steps(sample: Sample) -> tuple[int, float, float]:
    """Steps between the marks, their wall seconds, and the CPU seconds of all the arm's processes."""
    first, last = sorted(map(int, sample["cpu"]))
    wall = sample["seconds"][last - 1] - sample["seconds"][first - 1]
    return last - first, wall, sample["cpu"][str(last)]["tree"] - sample["cpu"][str(first)]["tree"]


def distance(losses: Sequence[float], reference: Sequence[float]) -> float:
    """How far the losses of steps are from the reference's, at most; NaN where one is none."""
    return float(np.max(np.abs(np.subtract(losses, reference))))
