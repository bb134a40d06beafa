"""`python -m benchmarks.train`: training beside its peers; writes RESULTS.md and results/train.json.

`--quick` runs every arm of the same comparisons once on a tiny model and writes to the work folder only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ROOT
from benchmarks.harness.machine import describe_machine, peers_versions
from benchmarks.harness.page import put_section
from benchmarks.harness.processes import take_charge
from benchmarks.train.memory import measure_memory
from benchmarks.train.overhead import measure_overhead
from benchmarks.train.plan import DEFAULT_FOLDER, DEFAULT_PEERS_PYTHON, Plan, full, quick
from benchmarks.train.report import failures, report
from benchmarks.train.start import measure_starts
from benchmarks.train.training import measure_training

logger = logging.getLogger("benchmarks.train")

RESULTS_PAGE, RESULTS_JSON = ROOT / "benchmarks/RESULTS.md", ROOT / "benchmarks/results/train.json"
OWN_PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "numpy")
PEER_PACKAGES = ("torch", "deepspeed", "ray", "lightning", "accelerate", "transformers")

PARTS: dict[str, Callable[[Plan, list[str]], Any]] = {
    "ranks-1": lambda plan, arms: measure_training(plan, 1, arms),
    "ranks-2": lambda plan, arms: measure_training(plan, 2, arms),
    "start": lambda plan, arms: measure_starts(plan),
    "memory": lambda plan, arms: measure_memory(plan),
    "overhead": lambda plan, arms: measure_overhead(plan),
}


def main() -> int:
    """Run the parts that are asked for; results of other parts stay as they are. 1 if an arm failed."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    take_charge()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-2:])
    options.work.mkdir(parents=True, exist_ok=True)
    plan = (quick if options.quick else full)(options.work.resolve(), str(options.peers.absolute()))
    if options.repetitions:
        plan = replace(plan, repetitions=options.repetitions)
    is_draft = options.quick or options.draft or bool(options.arms)
    page, stored = (
        (options.work / "draft.md", options.work / "draft.json") if is_draft else (RESULTS_PAGE, RESULTS_JSON)
    )
    results = json.loads(stored.read_text()) if stored.is_file() else {}
    versions = {"versions": peers_versions(plan.peers_python, PEER_PACKAGES)}
    for part in options.only or PARTS:
        logger.info("measuring: %s", part)
        results[part] = PARTS[part](plan, options.arms)
        results |= {"repetitions": plan.repetitions, "machine": describe_machine(versions, OWN_PACKAGES)}
        stored.write_text(json.dumps(results, indent=1) + "\n")
        page.write_text(put_section(page.read_text() if page.is_file() else "", report(results), "train"))
    sys.stdout.write(report(results) + "\n")
    return 1 if failures(results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, each arm once: do they all run?")
    parser.add_argument("--draft", action="store_true", help="write to the work folder, not to RESULTS.md")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeatable")
    parser.add_argument("--arms", nargs="+", default=[], metavar="WORD", help="arms whose names hold a word; a draft")
    parser.add_argument("--repetitions", type=int, help="of each arm; default: 5, with --quick 1")
    parser.add_argument("--work", type=Path, default=DEFAULT_FOLDER, help="dataset, weights and what arms write")
    parser.add_argument("--peers", type=Path, default=DEFAULT_PEERS_PYTHON, help="the Python of the peers' environment")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
