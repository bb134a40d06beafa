"""`python -m benchmarks.checkpoint`: what a save costs beside the peers; writes RESULTS.md and results/checkpoint.json.

`--quick` runs the same comparison in a few minutes and writes to the work folder only.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.checkpoint.limits import measure_limits
from benchmarks.checkpoint.measure import measure_world
from benchmarks.checkpoint.plan import ARMS, WORLDS, Plan, full, quick
from benchmarks.checkpoint.report import section
from benchmarks.harness.environment import ROOT
from benchmarks.harness.failed import all_failed
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.page import put_section
from benchmarks.harness.processes import take_charge

logger = logging.getLogger("benchmarks.checkpoint")

RESULTS_PAGE, RESULTS_JSON = ROOT / "benchmarks/RESULTS.md", ROOT / "benchmarks/results/checkpoint.json"
DEFAULT_WORK, DEFAULT_PEERS_PYTHON = ROOT / "build/bench-checkpoint", ROOT / ".venv-train-peers/bin/python"


def measure(plan: Plan, worlds: list[int], arms: list[str], stored: Path) -> dict[str, Any]:
    """The whole comparison; what there is of it is stored after each round."""
    results: dict[str, Any] = {"repetitions": plan.repetitions, "block": plan.block, "shape": plan.shape, "worlds": {}}
    results["limits"] = measure_limits(plan.work, plan.state_bytes, plan.repetitions)

    def keep() -> None:
        results["machine"] = describe_machine(results["worlds"])
        stored.write_text(json.dumps(results, indent=1) + "\n")

    for world in worlds:
        found = results["worlds"].setdefault(str(world), {})
        measure_world(plan, world, arms, found, keep)
        keep()
    return results


def main() -> int:
    """Measure, and write the section, unless some arms were left out. Exit status 1 if anything failed."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    take_charge()
    options.work.mkdir(parents=True, exist_ok=True)
    plan = (quick if options.quick else full)(options.work.resolve(), str(options.peers.absolute()))
    if options.repetitions:
        plan = replace(plan, repetitions=options.repetitions)
    is_part = bool(options.quick or options.arm or options.world)
    page, stored = (plan.work / "part.md", plan.work / "part.json") if is_part else (RESULTS_PAGE, RESULTS_JSON)
    stored.parent.mkdir(exist_ok=True)
    results = measure(plan, options.world or list(WORLDS), options.arm or list(ARMS), stored)
    text = section(results)
    page.write_text(put_section(page.read_text() if page.is_file() else "", text, name="checkpoint"))
    sys.stdout.write(text + "\n")
    for failure in all_failed(results):
        logger.error("failed: %s", failure)
    return 1 if all_failed(results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few saves, rough figures; writes to the work folder")
    parser.add_argument("--arm", action="append", choices=ARMS, help="an arm; repeatable; default: all")
    parser.add_argument("--world", action="append", type=int, choices=WORLDS, help="ranks; repeatable; default: all")
    parser.add_argument("--repetitions", type=int, help="of each arm; default: 5, with --quick 2")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="dataset and what arms write")
    parser.add_argument("--peers", type=Path, default=DEFAULT_PEERS_PYTHON, help="the Python of the peers' environment")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
