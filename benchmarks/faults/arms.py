"""The arms of the fault benchmark: how each is started, on the demo's model and two ranks of one machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.dataset import DEMO, demo_model, demo_settings
from benchmarks.faults.jobs import HeadraceJob, Job, Place, running
from benchmarks.harness.environment import ROOT

HEADRACE, TORCHRUN = "headrace", "torchrun with DCP"
RAY_DEEPSPEED, LIGHTNING = "Ray Train with DeepSpeed", "Lightning with torchrun"
PEERS = (TORCHRUN, RAY_DEEPSPEED, LIGHTNING)
ARMS = (HEADRACE, *PEERS)

RANKS = 2
MICRO_BATCH = 2
"""Each rank's rows of the demo's batch of four, in one pass in all arms; the demo takes two passes."""
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1000")
_SCRIPTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    # Ranks that do not end by SIGTERM, because they stand still, are killed after two seconds; by default after 30.
    TORCHRUN: ((*_TORCHRUN, "--shutdown-timeout=2"), "torchrun_dcp.py"),
    LIGHTNING: ((*_TORCHRUN, "--shutdown-timeout=2"), "lightning_fit.py"),
    RAY_DEEPSPEED: ((), "ray_deepspeed.py"),
}


@dataclass(frozen=True)
class Runner:
    """Starts arms. save_every: steps between checkpoints of all arms; collective_seconds: the peers' time-out for
    collectives, and for the ranks to meet; by default they have half an hour."""

    peers_python: str
    save_every: int
    collective_seconds: float

    def command(self, arm: str, place: Place) -> list[str]:
        """What is run."""
        if arm == HEADRACE:
            words = [word for change in self._changes(place) for word in ("--set", change)]
            return [sys.executable, "-m", "cluster.cli", "train", str(DEMO), *words]
        launcher, script = _SCRIPTS[arm]
        path = ROOT / "benchmarks/faults/peers" / script
        return [self.peers_python, *launcher, str(path), json.dumps(self._options(place))]

    @contextmanager
    def started(self, arm: str, place: Place) -> Iterator[Job]:
        """The arm's job while the block runs."""
        kind = HeadraceJob if arm == HEADRACE else Job
        with running(self.command(arm, place), place, kind) as job:
            yield job

    def _changes(self, place: Place) -> list[str]:
        """The demo's run file, made this run by `--set`."""
        changes: dict[str, Any] = {
            "name": place.out.name,
            "out_dir": place.out,
            "data.dir": place.dataset,
            "data.on_bad_shard": "skip",
            "train.micro_batch_size": MICRO_BATCH,
            "train.max_tokens": 10**8,
            "eval.interval": 10**6,
            "eval.max_tokens": 1024,
            "eval.samples": "[]",
            "checkpoint.interval": self.save_every,
            "checkpoint.snapshot_interval": 1,
            "cluster.max_failures": 1000,
            "monitoring.tracking_uri": f"sqlite:///{place.store}",
        }
        return [f"{name}={value}" for name, value in changes.items()]

    def _options(self, place: Place) -> dict[str, Any]:
        model, train = demo_model(place.dataset), demo_settings()["train"]
        return {
            "out": str(place.out),
            "arrays": str(place.arrays),
            "model": model,
            "seq_len": model["max_seq_len"],
            "batch": train["global_batch_size"],
            "lr": train["lr"],
            "save_every": self.save_every,
            "timeout_seconds": self.collective_seconds,
        }
