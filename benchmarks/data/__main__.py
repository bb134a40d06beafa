"""`python -m benchmarks.data`: the data road beside its peers; writes RESULTS.md and results/data.json.

`--quick` runs the same comparisons on little data in three minutes and writes to the work folder only.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.data.arms_ray import UNIT_BYTES, measure_prepare
from benchmarks.data.arms_reading import measure_reading
from benchmarks.data.arms_tokenise import measure_tokenising
from benchmarks.data.balance import measure_balance
from benchmarks.data.plan import DEFAULT_FOLDER, DEFAULT_PEERS_PYTHON, MEGA, Plan, full, quick
from benchmarks.data.report import report
from benchmarks.data.shuffle import measure_shuffle
from benchmarks.harness.environment import ROOT
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.page import put_section

logger = logging.getLogger("benchmarks.data")

RESULTS_PAGE, RESULTS_JSON = ROOT / "benchmarks/RESULTS.md", ROOT / "benchmarks/results/data.json"


def prepare_part(plan: Plan) -> dict[str, Any]:
    """`headrace prepare` on Ray."""
    large, tiny = plan.corpus("prose", plan.large_bytes), plan.corpus("prose", MEGA)
    runs = measure_prepare(large, tiny, plan.tokenizer(), plan.folder, plan.repetitions)
    samples = {str(workers): found for workers, found in runs.samples.items()}
    return {"megabytes": large.megabytes, "unit_bytes": UNIT_BYTES, **asdict(runs), "samples": samples}


PARTS: dict[str, Callable[[Plan], Any]] = {
    "tokenise": measure_tokenising,
    "prepare": prepare_part,
    "reading": measure_reading,
    "shuffle": measure_shuffle,
    "balance": lambda plan: measure_balance(plan.balance_seeds),
}


def main() -> int:
    """Run the parts that are asked for; results of other parts stay as they are."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("data_shards").setLevel(logging.ERROR)
    options.work.mkdir(parents=True, exist_ok=True)
    make = quick if options.quick else full
    plan = make(options.work.resolve(), str(options.peers.absolute()), tuple(options.text))
    if options.repetitions:
        plan = replace(plan, repetitions=options.repetitions)
    page, stored = (options.work / "quick.md", options.work / "quick.json") if options.quick else _places()
    results = json.loads(stored.read_text()) if stored.is_file() else {}
    for part in options.only or PARTS:
        logger.info("measuring: %s", part)
        results[part] = PARTS[part](plan)
        results |= {"repetitions": plan.repetitions, "machine": describe_machine(results)}
        stored.write_text(json.dumps(results, indent=1) + "\n")
        page.write_text(put_section(page.read_text() if page.is_file() else "", report(results)))
    sys.stdout.write(report(results) + "\n")
    return 0


def _places() -> tuple[Path, Path]:
    RESULTS_JSON.parent.mkdir(exist_ok=True)
    return RESULTS_PAGE, RESULTS_JSON


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little data, rough figures, three minutes")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeatable")
    parser.add_argument("--repetitions", type=int, help="of each arm; default: 5, with --quick 2")
    parser.add_argument(
        "--text", nargs="+", type=Path, default=[], metavar="FILE", help="prose, instead of fetched text"
    )
    parser.add_argument("--work", type=Path, default=DEFAULT_FOLDER, help="corpora and what arms write")
    parser.add_argument("--peers", type=Path, default=DEFAULT_PEERS_PYTHON, help="the Python of the peers' environment")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
