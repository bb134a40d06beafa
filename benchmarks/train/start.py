"""From a command's start to the end of the first step: cold, with no Ray running, and warm, on a Ray that runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.arms_ray import running_ray
from benchmarks.harness.environment import environment
from benchmarks.harness.launch import group
from benchmarks.harness.processes import end_all_below
from benchmarks.harness.stats import turns
from benchmarks.train.arms import ARM_SECONDS, PEERS, Sample, read_sample
from benchmarks.train.plan import Plan
from benchmarks.train.stamps import SETTINGS
from benchmarks.train.training import checked
from benchmarks.train.work import Work, make_work, run_document

logger = logging.getLogger(__name__)

STEPS = 2
BARE = "python train.py"
TORCHRUN = "torchrun, 2 ranks"
Command = Callable[[Work, Path, dict[str, Any]], list[str]]


@dataclass(frozen=True)
class Start:
    """A way to start training: its name, ranks, whether a Ray runs before, and its command for a folder."""

    name: str
    ranks: int
    is_warm: bool
    command: Command
    shown: str


def own_name(ranks: int, is_warm: bool) -> str:
    """The name of our arm."""
    return f"headrace train, {ranks} worker{'s' if ranks > 1 else ''}, {'warm' if is_warm else 'cold'}"


def ray_train_name(is_warm: bool) -> str:
    """The name of plain Ray Train's arm."""
    return f"plain Ray Train, 2 workers, {'warm' if is_warm else 'cold'}"


def starts(is_warm: bool) -> list[Start]:
    """All ways to start, ours first."""
    own = [
        Start(own_name(ranks, is_warm), ranks, is_warm, _headrace(ranks), f"headrace train run.yaml{_at(is_warm)}")
        for ranks in (1, 2)
    ]
    plain = Start(ray_train_name(is_warm), 2, is_warm, _peer("start_ray_train.py"), "python start_ray_train.py")
    if is_warm:
        return [*own, plain]
    peers = [
        Start("python -m trainer", 1, False, _trainer, "python -m trainer run.yaml"),
        Start(BARE, 1, False, _peer("train_bare.py"), "python train_bare.py"),
        Start(TORCHRUN, 2, False, _torchrun, "torchrun --standalone --nproc-per-node 2 train_ddp.py"),
    ]
    return [*own, *peers, plain]


def _at(is_warm: bool) -> str:
    return " --address HOST:PORT" if is_warm else ""


def _task(work: Work, folder: Path, asked: dict[str, Any]) -> str:
    return json.dumps({**work.task(), **asked, "out": str(folder)})


def _peer(script: str) -> Command:
    return lambda work, folder, asked: [work.plan.peers_python, str(PEERS / script), _task(work, folder, asked)]


def _torchrun(work: Work, folder: Path, asked: dict[str, Any]) -> list[str]:
    launcher = [work.plan.peers_python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, str(PEERS / "train_ddp.py"), _task(work, folder, {**asked, "address": None})]


def _headrace(ranks: int) -> Command:
    def command(work: Work, folder: Path, asked: dict[str, Any]) -> list[str]:
        at = [] if asked["address"] is None else ["--address", asked["address"]]
        file = _run_file(work, folder)
        return [sys.executable, "-m", "cluster.cli", "train", file, "--set", f"cluster.workers={ranks}", *at]

    return command


def _trainer(work: Work, folder: Path, asked: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "trainer", _run_file(work, folder)]


def _run_file(work: Work, folder: Path) -> str:
    file = folder / "run.yaml"
    file.write_text(json.dumps(run_document(work.plan, work.sequences, len(work.rates), folder / "run")))
    return str(file)


def measure_starts(plan: Plan) -> dict[str, Any]:
    """Seconds to the end of the first step; one uncounted round fills the page cache and compares the losses."""
    work = make_work(plan, plan.start_sequences, STEPS)
    failed: dict[str, str] = {}
    samples: dict[str, list[float]] = {}
    reference = _run(next(start for start in starts(False) if start.name == BARE), work, None)
    cold = _measure(starts(False), work, reference, None, failed)
    with running_ray(2) as address:
        warm = _measure(starts(True), work, reference, address, failed)
    samples = {name: found for name, found in {**cold, **warm}.items() if name not in failed}
    shown = {start.name: start.shown for start in (*starts(False), *starts(True)) if start.name in samples}
    return {"work": work.facts(), "samples": samples, "failed": failed, "commands": shown}


def _measure(
    chosen: Sequence[Start], work: Work, reference: Sample, address: str | None, failed: dict[str, str]
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {start.name: [] for start in chosen}
    for place, number in enumerate(turns(len(chosen), work.plan.repetitions + 1)):
        start = chosen[number]
        if start.name in failed:
            continue
        try:
            sample = _run(start, work, address)
            checked(start.name, sample, reference, work.plan.tolerance)
        except RuntimeError as error:
            logger.error("%s", error)
            failed[start.name] = str(error)
            continue
        if place >= len(chosen):
            found[start.name].append(sample["seconds"][0])
    return found


def _run(start: Start, work: Work, address: str | None) -> Sample:
    folder = work.plan.folder / "start"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked: dict[str, Any] = {"root": os.getpid(), "marks": [1, STEPS]}
    (folder / SETTINGS).write_text(json.dumps(asked))
    command = start.command(work, folder, {**asked, "address": address})
    auth = {"RAY_AUTH_MODE": "disabled"} if start.is_warm else {}
    began = time.perf_counter()
    with group(start.name, folder / "log") as processes:
        processes.start(command, frozenset(work.plan.cores), {**environment(PEERS), **auth})
        processes.wait(ARM_SECONDS)
    if not start.is_warm:
        end_all_below(os.getpid())  # such as Ray's daemons, on their way out
    sample = read_sample(folder, began)
    logger.info("%s: first step after %.2f s", start.name, sample["seconds"][0])
    return sample
