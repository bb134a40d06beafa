"""Arms of a comparison: processes that measure themselves, pinned to cores, run in turn, outputs compared first."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.processes import pinned
from benchmarks.harness.stats import turns

logger = logging.getLogger(__name__)

PEERS = ROOT / "benchmarks/data/peers"
OWN = ROOT / "benchmarks/data/own"
TIMEOUT_SECONDS = 600.0
Sample = dict[str, Any]  # what an arm printed of one run


@dataclass(frozen=True)
class Arm:
    """A script that takes its options as JSON in its last argument and prints a Sample as its last line."""

    name: str
    python: str
    script: Path
    options: dict[str, Any]
    cores: frozenset[int]
    out: Path | None = None  # an empty folder for each run, removed after it
    note: str = ""

    def command(self, verify: bool) -> list[str]:
        """What is run; `verify` asks for a digest of all that was put out."""
        place = {} if self.out is None else {"out": str(self.out)}
        return [self.python, str(self.script), json.dumps({**self.options, **place, "verify": verify})]


@dataclass
class Comparison:
    """What a group of arms gave."""

    name: str
    digests: dict[str, str]
    commands: dict[str, str]
    samples: dict[str, list[Sample]] = field(default_factory=dict)


def compare(name: str, arms: Sequence[Arm], repetitions: int) -> Comparison:
    """Run each arm once uncounted, compare what they put out, then time them in turn.

    The uncounted run also fills the page cache. Raises: RuntimeError if an arm fails or the outputs differ.
    """
    digests = {arm.name: str(run_arm(arm, verify=True)["digest"]) for arm in arms}
    require_equal(name, digests)
    found = Comparison(name, digests, {arm.name: shown(arm) for arm in arms}, {arm.name: [] for arm in arms})
    for number in turns(len(arms), repetitions):
        found.samples[arms[number].name].append(run_arm(arms[number], verify=False))
    return found


def require_equal(name: str, digests: dict[str, str]) -> None:
    """Raise RuntimeError unless all arms put out the same."""
    if len(set(digests.values())) > 1:
        listed = "; ".join(f"{arm}: {digest}" for arm, digest in digests.items())
        raise RuntimeError(f"{name}: the arms put out different things, so they are not timed: {listed}")


def run_arm(arm: Arm, verify: bool) -> Sample:
    """One run of an arm in a process of its own."""
    if arm.out is not None:
        shutil.rmtree(arm.out, ignore_errors=True)
        arm.out.mkdir(parents=True)
    sample = run_script(arm.name, arm.command(verify), arm.cores)
    if arm.out is not None:
        shutil.rmtree(arm.out)
    logger.info("%s: %.2f s, CPU %.2f s", arm.name, sample["wall_seconds"], sample["cpu_seconds"])
    return sample


def run_script(name: str, command: Sequence[str], cores: frozenset[int]) -> Sample:
    """Run a script on the given cores; its last line as JSON. Raises: RuntimeError with the end of what it said."""
    began = time.perf_counter()
    with pinned(cores):
        done = subprocess.run(
            command,
            env=environment(PEERS),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{name}: exit status {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": time.perf_counter() - began}


def shown(arm: Arm) -> str:
    """The command as a person would type it, without this machine's folders."""
    python = ".venv/bin/python" if arm.python == sys.executable else ".venv-peers/bin/python"
    cores = ",".join(map(str, sorted(arm.cores)))
    options = {key: Path(value).name if "/" in str(value) else value for key, value in arm.options.items()}
    script = f"benchmarks/data/{arm.script.parent.name}/{arm.script.name}"
    return f"taskset -c {cores} {python} {script} '{json.dumps(options)}'"
