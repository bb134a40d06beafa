"""The two runs of one file that are compared: an undisturbed one and a disturbed one, on one cluster."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.chaos.cluster import ChaosCluster
from cluster.chaos.driver import Driver, train_words
from cluster.chaos.evidence import Evidence, gather
from cluster.chaos.injection import Injection
from cluster.chaos.injector import Injector, RunUnderTest
from cluster.chaos.mlflow_server import MlflowServer
from cluster.chaos.plan import Fault, Plan, inner_faults
from cluster.chaos.verdict import Limits
from cluster.errors import ClusterError
from cluster.heartbeat import auto_hang_seconds
from cluster.settings import parse_cluster
from monitoring.forward import import_journal
from monitoring.journal import is_step, last_values
from trainer.config import RunConfig

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02
_BUDGET = 1000
"""Failures and preemptions that a disturbed run may have: the plan decides how many there are, not the run file."""


@dataclass(frozen=True)
class Disturbed:
    """What became of the disturbed run."""

    evidence: Evidence
    injections: tuple[Injection, ...]
    not_done: tuple[int, ...]


class Experiment:
    """Runs of one file in one folder. file: the run file; overrides: of its fields; config: both together."""

    def __init__(self, file: Path, overrides: Sequence[str], config: RunConfig) -> None:
        """Makes a folder for it beside the run's own: OUT_DIR-chaos/0001 and on."""
        self._file, self._overrides, self._config = file, list(overrides), config
        self.folder = _new_folder(Path(config.out_dir))
        self._database = self.folder / "mlflow.db"
        self._mark = secrets.token_hex(3)

    def limits(self, calm: Evidence) -> Limits:
        """What the run's settings promise; steps between checkpoints as the undisturbed run made them."""
        saved = sorted(r["step"] for r in calm.records if r.get("event") == "checkpoint")
        gaps = [later - earlier for earlier, later in pairwise([0, *saved])]
        return Limits(
            checkpoint_steps=self._config.checkpoint.interval_steps or max(gaps, default=1),
            hang_seconds=self._hang_seconds(calm),
            has_dropout=self._config.model.shape().dropout > 0,
        )

    def _hang_seconds(self, calm: Evidence) -> float:
        asked = parse_cluster(self._config.cluster, str(self._file)).hang_seconds
        steps = [record["step_seconds"] for record in calm.records if is_step(record)]
        return auto_hang_seconds(max(steps, default=0.0)) if asked == "auto" else asked

    def run_calm(self, cluster: ChaosCluster, stall_seconds: float) -> Evidence:
        """The undisturbed run. ClusterError, with the last line that it said, if it does not finish."""
        logger.info("the undisturbed run, in %s", self.folder / "calm")
        calm = self._run("calm", cluster, (), stall_seconds).evidence
        if calm.exit_status != 0:
            raise ClusterError(
                f"the undisturbed run must finish, but its exit status is {calm.exit_status}; it said:\n"
                f"{calm.log_tail.strip()}\nThe whole log is {self.folder / 'calm.log'}."
            )
        return calm

    def run_rough(self, cluster: ChaosCluster, plan: Plan) -> Disturbed:
        """The disturbed run."""
        logger.info("the disturbed run, in %s", self.folder / "rough")
        return self._run("rough", cluster, plan.faults, plan.stall_seconds)

    def _run(self, arm: str, cluster: ChaosCluster, faults: Sequence[Fault], stall_seconds: float) -> Disturbed:
        mlflow = self._start_mlflow() if any(fault.kind == "kill_mlflow" for fault in faults) else None
        name = f"{self._config.name}-{arm}-{self._mark}"
        out_dir = self.folder / arm
        words = train_words(self._file, [*self._overrides, *self._arm_overrides(name, out_dir, mlflow)])
        inner = [fault.for_rank() for fault in inner_faults(faults).values()]
        driver = Driver(words, self.folder / f"{arm}.log", inner)
        injector = Injector(faults, RunUnderTest(name, out_dir, driver, cluster, mlflow))
        try:
            driver.start(cluster.address)
            status = _follow(driver, injector, stall_seconds)
            injector.close()  # what was stopped goes on now, and has to end as well
            if mlflow is not None and not mlflow.is_up and (out_dir / "run.json").exists():
                import_journal(out_dir, f"sqlite:///{self._database}", self._config.monitoring.experiment)
            evidence = gather(out_dir, self._database, status, driver.log_tail(), name)
        finally:
            driver.end()
            injector.close()
            if mlflow is not None:
                mlflow.close()
        return Disturbed(evidence, tuple(injector.injections), tuple(injector.not_done))

    def _start_mlflow(self) -> MlflowServer:
        server = MlflowServer(self._database, self.folder / "mlflow.log")
        server.start()
        server.wait_ready()
        return server

    def _arm_overrides(self, name: str, out_dir: Path, mlflow: MlflowServer | None) -> list[str]:
        values: dict[str, Any] = {
            "name": name,
            "out_dir": str(out_dir),
            "data.dir": str(self._config.data_dir),
            "checkpoint.dir": None,  # not where the run itself has its own
            "monitoring.tracking_uri": mlflow.uri if mlflow else f"sqlite:///{self._database}",
            "cluster.max_failures": _BUDGET,
            "cluster.max_preemptions": _BUDGET,
        }
        return [f"{field}={json.dumps(value)}" for field, value in values.items()]


def last_step(evidence: Evidence) -> int:
    """The step that a run ended with."""
    return max(last_values(evidence.records), default=0)


def _follow(driver: Driver, injector: Injector, stall_seconds: float) -> int | None:
    """Turn the injector until the driver has ended for good; its exit status, None if the run hung."""
    while True:
        injector.turn()
        status = driver.poll()
        if status is not None and not injector.restarting:
            injector.turn()  # what the journal got last
            return status
        if injector.seconds_without_step() > stall_seconds:
            logger.error("no new step within %.0f s: the run hangs, and is ended", stall_seconds)
            return None
        time.sleep(POLL_SECONDS)


def _new_folder(out_dir: Path) -> Path:
    parent = out_dir.with_name(f"{out_dir.name}-chaos")
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0) + 1
    folder = parent / f"{number:04d}"
    folder.mkdir()
    return folder
