"""What a step costs whatever its batch is: the bare loop, DDP and Headrace at each stage, by phase and by operation."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.launch import group, rank_environments
from benchmarks.train.arms import BARE, BARE_KEEPING, DDP, DDP_KEEPING, STAGES, headrace
from benchmarks.train.plan import Plan
from model.settings import ModelSettings, resolve
from trainer.allocator import keeping_memory

logger = logging.getLogger(__name__)

SCRIPT = ROOT / "benchmarks/train/own/overhead.py"
STEPS, SECONDS = 10, 600.0
OWN_ALONE = "headrace, any stage"


@dataclass(frozen=True)
class Case:
    """A way to take a step. stage: of Headrace; None: the bare loop or DDP."""

    name: str
    stage: int | None
    ranks: int
    keeps_memory: bool = True


CASES = (
    Case(BARE, None, 1, keeps_memory=False),
    Case(BARE_KEEPING, None, 1),
    Case(OWN_ALONE, 2, 1),
    Case(DDP, None, 2, keeps_memory=False),
    Case(DDP_KEEPING, None, 2),
    *(Case(headrace(stage), stage, 2) for stage in STAGES),
)


def measure_overhead(plan: Plan) -> dict[str, Any]:
    """CPU milliseconds on rank 0, each rank on a core of its own; an arm that fails is told under `failed`."""
    model = resolve(ModelSettings.model_validate(plan.shape), plan.vocab_size)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for case in CASES:
        try:
            found[case.name] = {"ranks": case.ranks, **_measure(plan, case, model.to_dict())}
            logger.info("%s: %s", case.name, found[case.name]["phases"])
        except RuntimeError as error:
            logger.error("%s", error)
            failed[case.name] = str(error)
    return {"arms": found, "failed": failed}


def _measure(plan: Plan, case: Case, model: dict[str, Any]) -> dict[str, Any]:
    folder = plan.folder / "overhead"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [
        sys.executable,
        str(SCRIPT),
        json.dumps({"stage": case.stage, "model": model, "steps": STEPS, "out": str(folder)}),
    ]
    own = {**environment(), **(keeping_memory({}) if case.keeps_memory else {}), "GLOO_SOCKET_IFNAME": "lo"}
    with group(case.name, folder / "log") as processes:
        for core, variables in zip(plan.cores, rank_environments(case.ranks, even_one=True), strict=False):
            processes.start(command, frozenset({core}), {**own, **variables})
        processes.wait(SECONDS)
    measured: dict[str, Any] = json.loads((folder / "overhead.json").read_text())
    return measured
