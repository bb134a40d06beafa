"""What a step costs whatever its batch is: the bare loop and Headrace at each stage, by phase and by operation."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

from benchmarks.data.arms import ROOT, pinned
from benchmarks.train.arms import BARE, STAGES, headrace
from benchmarks.train.plan import Plan
from benchmarks.train.work import environment
from model.settings import ModelSettings, resolve

logger = logging.getLogger(__name__)

SCRIPT = ROOT / "benchmarks/train/own/overhead.py"
STEPS, SECONDS = 10, 600.0


def measure_overhead(plan: Plan) -> dict[str, Any]:
    """CPU milliseconds on one rank, pinned to a core; an arm that fails is told under `failed`."""
    model = resolve(ModelSettings.model_validate(plan.shape), plan.vocab_size)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, stage in ((BARE, None), *((headrace(stage), stage) for stage in STAGES)):
        command = [sys.executable, str(SCRIPT), json.dumps({"stage": stage, "model": model.to_dict(), "steps": STEPS})]
        with pinned(frozenset(plan.cores[:1])):
            done = subprocess.run(
                command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
            )
        if done.returncode:
            failed[name] = f"exit status {done.returncode}: {done.stderr[-2000:]}"
            logger.error("%s: %s", name, failed[name])
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        logger.info("%s: %s", name, found[name]["phases"])
    return {"arms": found, "failed": failed}
