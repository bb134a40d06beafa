"""`python -m benchmarks.faults`: recovery beside the peers; writes RESULTS.md and results/faults.json.

`--quick` runs the same with few kills and short traces and writes to the work folder only; so does `--arm headrace`,
which is the kills of that arm alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.arms import ARMS, HEADRACE
from benchmarks.faults.kills import Keep, measure_lost, measure_recovery
from benchmarks.faults.plan import Plan, full, quick
from benchmarks.faults.report import section
from benchmarks.faults.snapshots import measure_snapshots
from benchmarks.faults.storm import measure_storm
from benchmarks.harness.environment import ROOT
from benchmarks.harness.failed import all_failed
from benchmarks.harness.machine import describe_machine, peers_versions
from benchmarks.harness.page import put_section
from benchmarks.harness.processes import take_charge

logger = logging.getLogger("benchmarks.faults")

RESULTS_PAGE, RESULTS_JSON = ROOT / "benchmarks/RESULTS.md", ROOT / "benchmarks/results/faults.json"
DEFAULT_WORK, DEFAULT_PEERS_PYTHON = ROOT / "build/bench-faults", ROOT / ".venv-train-peers/bin/python"
PARTS: dict[str, Callable[[Plan, Keep], dict[str, Any]]] = {
    "lost": measure_lost,
    "snapshots": measure_snapshots,
    "storm": measure_storm,
}
RECOVERY = "recovery"
PEER_PACKAGES = ("torch", "deepspeed", "ray", "lightning")


def main() -> int:
    """Run the parts that are asked for; results of other parts stay as they are. Exit status 1 if anything failed."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    take_charge()
    options.work.mkdir(parents=True, exist_ok=True)
    make = quick if options.quick else full
    plan = make(options.work.resolve(), str(options.peers.absolute()), options.seed)
    is_rough = options.quick or options.arm
    page, stored = (plan.work / "quick.md", plan.work / "quick.json") if is_rough else (RESULTS_PAGE, RESULTS_JSON)
    stored.parent.mkdir(exist_ok=True)
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.is_file() else {}
    versions = {} if options.arm == [HEADRACE] else peers_versions(plan.peers_python, PEER_PACKAGES)
    results |= {"seed": plan.seed, "collective_seconds": plan.collective_seconds}
    results |= {"machine": describe_machine({"versions": versions})}
    parts = [RECOVERY] if options.arm else options.only or [RECOVERY, *PARTS]
    for part in parts:
        logger.info("measuring: %s, seed %d", part, plan.seed)
        measure_part(plan, part, options.arm or ARMS, results, stored)
        text = section(results)
        page.write_text(put_section(page.read_text() if page.is_file() else "", text, name="recovery"))
    sys.stdout.write(section(results) + "\n")
    failures = all_failed({part: results[part] for part in parts})
    for failure in failures:
        logger.error("failed: %s", failure)
    return 1 if failures else 0


def measure_part(plan: Plan, part: str, arms: Sequence[str], results: dict[str, Any], stored: Path) -> None:
    """Put a part's results into all results, and store them after each of its rounds."""

    def keep(found: Mapping[str, Any]) -> None:
        results[part] = found
        stored.write_text(json.dumps(results, indent=1) + "\n")

    keep(measure_recovery(plan, arms, keep) if part == RECOVERY else PARTS[part](plan, keep))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few kills, rough figures; writes to the work folder")
    parser.add_argument("--only", action="append", choices=[RECOVERY, *PARTS], help="a part; repeatable")
    parser.add_argument("--arm", action="append", choices=ARMS, help="the kills of this arm alone; repeatable")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of kills and of the trace")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="dataset and what arms write")
    parser.add_argument("--peers", type=Path, default=DEFAULT_PEERS_PYTHON, help="the Python of the peers' environment")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
