"""Does to a run what a plan says, at the steps that it says, and notes what was hit and when."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from cluster.chaos.cluster import ChaosCluster
from cluster.chaos.damage import damage_newest
from cluster.chaos.driver import Driver
from cluster.chaos.injection import Injection
from cluster.chaos.mlflow_server import MlflowServer
from cluster.chaos.plan import CHECKPOINT_KINDS, INNER_KINDS, NODE_KINDS, PROCESS_KINDS, Fault, inner_faults
from cluster.chaos.process_table import (
    GoneWatch,
    RunProcess,
    descendants,
    processes_of,
    read_parents,
    read_titles,
    send,
)
from monitoring.journal import JournalReader, is_step

logger = logging.getLogger(__name__)

GONE_SECONDS = 20.0
"""So long is the end of processes waited for that have to go with what was killed."""
RETRY_SECONDS = 0.25
"""After what a fault is to hit was not there: to look through all processes costs the run some of its time."""


@dataclass
class RunUnderTest:
    """What can be done something to. name: unique on this machine, since processes are found by it."""

    name: str
    out_dir: Path
    driver: Driver
    cluster: ChaosCluster
    mlflow: MlflowServer | None


class Injector:
    """Call `turn` often, from the run's start to its end, and then `close`."""

    def __init__(self, faults: Sequence[Fault], run: RunUnderTest) -> None:
        self._run = run
        self._pending = [(i, fault) for i, fault in enumerate(faults) if fault.kind not in INNER_KINDS]
        self._inner = inner_faults(faults)
        self._marks = list(self._inner)  # index in the plan by the number of the rank's mark, in order
        self._reader = JournalReader(run.out_dir)
        self._began = time.monotonic()
        self._newest = 0
        # An undisturbed run may prepare its corpus first, however long that takes.
        self._new_step_time = time.monotonic() if faults else None
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._watches: list[tuple[Injection, GoneWatch]] = []
        self._retry_time = 0.0
        self._stopped: set[int] = set()
        self._down: Injection | None = None  # the fault that ended the driver, which is to be started again
        self._orders: list[Future[None]] = []
        self.injections: list[Injection] = []

    @property
    def restarting(self) -> bool:
        """Whether the driver has ended, or is about to, by the plan, and will be started again."""
        return self._down is not None

    @property
    def not_done(self) -> list[int]:
        """Places in the plan of the faults that have not happened yet."""
        done = {injection.index for injection in self.injections}
        return [index for index in sorted([*self._inner, *(i for i, _ in self._pending)]) if index not in done]

    def seconds_without_step(self) -> float:
        """Since the journal had its newest step, or since the driver was started."""
        return 0.0 if self._new_step_time is None else time.monotonic() - self._new_step_time

    def turn(self) -> None:
        """Look at the journal, and do what is due. Raises what an order to the cluster raised."""
        self._read_journal()
        self._collect_marks()
        self._look_after_watches()
        self._restart_driver()
        self._do_later()
        for order in [order for order in self._orders if order.done()]:
            self._orders.remove(order)
            order.result()
        if self._pending and not self.restarting and self._is_due(self._pending[0][1]):
            self._inject(*self._pending[0])

    def close(self) -> None:
        """Let everything go on that was stopped, and let go of what was watched. Again and again does no harm."""
        send(self._stopped, signal.SIGCONT)
        self._stopped.clear()
        for _, watch in self._watches:
            watch.close()
        self._watches = []

    # ---- what the run says

    def _read_journal(self) -> None:
        newest = max((record["step"] for record in self._reader.poll() if is_step(record)), default=0)
        if newest > self._newest:
            self._newest, self._new_step_time = newest, time.monotonic()

    def _collect_marks(self) -> None:
        """Faults that ranks have done to themselves leave a mark each, numbered as in the list that they were given."""
        seen = {injection.index for injection in self.injections}
        for number, index in enumerate(self._marks):
            path = self._run.out_dir / "faults" / f"{number:04d}.json"
            if index not in seen and path.exists() and (text := path.read_text()):
                fault = self._inner[index]
                mark = json.loads(text)
                target = f"rank {fault.rank}, {fault.phase or 'forward'} of step {mark['step']}"
                self._note(Injection(index, fault, target, float(mark["time"]), max(0, mark["step"] - 1)))

    def _note(self, injection: Injection) -> None:
        logger.info(
            "fault %d at step %d: %s, %s", injection.index, injection.step, injection.fault.kind, injection.target
        )
        self.injections.append(injection)

    # ---- when

    def _is_due(self, fault: Fault) -> bool:
        """Whether to try it in this turn."""
        if time.monotonic() < self._retry_time:
            return False
        return self._has_come(fault)

    def _has_come(self, fault: Fault) -> bool:
        """Faults wait for a new step after the one before, which they would blur; those of one step come together."""
        if fault.after_seconds is not None:
            return time.monotonic() - self._began >= fault.after_seconds
        assert fault.at_step is not None
        before = max(self.injections, key=lambda injection: injection.time, default=None)
        together = before is not None and before.fault.at_step == fault.at_step
        return self._newest >= fault.at_step and (before is None or together or self._newest > before.step)

    def _do_later(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for _, action in due:
            action()

    def _in(self, seconds: float | None, action: Callable[[], None]) -> None:
        """Do it so many seconds from now; never, if none are given."""
        if seconds is not None:
            self._later.append((time.monotonic() + seconds, action))

    # ---- what

    def _inject(self, index: int, fault: Fault) -> None:
        """Do it, unless what it is to hit is not there at this moment: then it is tried again at the next turn."""
        injection = Injection(index, fault, "", time.time(), self._newest)
        if fault.kind in PROCESS_KINDS:
            done = self._hit_process(injection)
        elif fault.kind in NODE_KINDS:
            done = self._hit_node(injection)
        elif fault.kind in CHECKPOINT_KINDS:
            done = self._hit_checkpoint(injection)
        else:
            done = self._hit_other(injection)
        if not done:
            self._retry_time = time.monotonic() + RETRY_SECONDS
            return
        self._pending.pop(0)
        self._note(injection)

    def _own_processes(self) -> list[RunProcess]:
        """The run's processes below our cluster: no other run's, whatever its name is."""
        ours = descendants([self._run.cluster.pid], read_parents())
        return [process for process in processes_of(self._run.name, read_titles()) if process.pid in ours]

    def _hit_process(self, injection: Injection) -> bool:
        fault = injection.fault
        role = "supervisor" if fault.kind == "kill_supervisor" else "rank"
        found = [p.pid for p in self._own_processes() if (p.role, p.rank) == (role, fault.rank)]
        if len(found) != 1:
            return False
        injection.target = f"{role} {fault.rank} (process {found[0]})"
        with_it = descendants(found, read_parents())
        injection.time = time.time()
        if fault.kind == "stop_rank":
            return self._stop(found, fault.seconds)
        self._watch(injection, with_it)
        return bool(send(found, signal.SIGKILL))

    def _stop(self, pids: list[int], seconds: float | None) -> bool:
        """Stop them, for so long or for ever; whether any was there."""
        self._stopped.update(pids)
        self._in(seconds, lambda: self._continue(pids))
        return bool(send(pids, signal.SIGSTOP))

    def _continue(self, pids: Iterable[int]) -> None:
        self._stopped.difference_update(pids)
        send(pids, signal.SIGCONT)

    def _node_of(self, fault: Fault) -> int | None:
        """The number of the node that the fault means; None if there is no such node at this moment."""
        raylets = self._run.cluster.raylets
        if fault.node is not None:
            return fault.node if fault.node in raylets else None
        parents = read_parents()
        supervisors = [p.pid for p in self._own_processes() if (p.role, p.rank) == ("supervisor", fault.rank)]
        nodes = [number for number, pid in raylets.items() if [parents.get(s) for s in supervisors] == [pid]]
        return nodes[0] if nodes else None

    def _hit_node(self, injection: Injection) -> bool:
        fault, cluster = injection.fault, self._run.cluster
        number = self._node_of(fault)
        if number is None:
            return False
        raylet = cluster.raylets[number]
        below = descendants([raylet], read_parents())
        injection.target = f"node {number} (raylet {raylet}, {len(below)} processes)"
        of_the_run = {process.pid for process in processes_of(self._run.name, read_titles())}
        injection.time = time.time()
        match fault.kind:
            case "stop_node":
                return self._stop([raylet, *below], fault.seconds)
            case "kill_node":
                self._watch(injection, below & of_the_run)
                send([raylet, *below], signal.SIGKILL)
            case "kill_raylet":
                self._watch(injection, below & of_the_run)
                send([raylet], signal.SIGKILL)
        self._orders.append(cluster.order("remove", node=number, graceful=fault.kind == "remove_node"))
        self._in(fault.seconds, self._add_node)
        return True

    def _add_node(self) -> None:
        self._orders.append(self._run.cluster.order("add"))

    def _hit_checkpoint(self, injection: Injection) -> bool:
        damaged = damage_newest(self._run.out_dir, injection.fault.kind, injection.fault.byte)
        if damaged is None:
            return False
        injection.target, injection.path = damaged
        return True

    def _hit_other(self, injection: Injection) -> bool:
        match injection.fault.kind:
            case "return_node":
                injection.target = "one more node"
                self._add_node()
            case "kill_mlflow":
                if self._run.mlflow is None or not self._run.mlflow.is_up:
                    return False
                injection.target = f"the MLflow server at {self._run.mlflow.uri}"
                self._run.mlflow.kill()
                self._in(injection.fault.seconds, self._run.mlflow.start)
            case _:
                return self._hit_driver(injection)
        return True

    def _hit_driver(self, injection: Injection) -> bool:
        """End the driver, and note that the same command is to be given again."""
        run = self._run
        injection.target = f"the driver (process {run.driver.pid})"
        if run.driver.poll() is not None:
            return False
        if injection.fault.kind == "terminate_driver":
            run.driver.signal(signal.SIGTERM)
        else:
            self._watch(injection, [p.pid for p in self._own_processes()])
            injection.time = time.time()
            run.driver.signal(signal.SIGKILL)
        if injection.fault.kind == "kill_head":
            injection.target += " and the head with all nodes"
            self._orders.append(run.cluster.order("restart", count=len(run.cluster.raylets)))
        self._down = injection
        return True

    # ---- what follows

    def _watch(self, injection: Injection, pids: Iterable[int]) -> None:
        self._watches.append((injection, GoneWatch(pids)))

    def _look_after_watches(self) -> None:
        for injection, watch in list(self._watches):
            seconds = time.time() - injection.time
            if watch.is_over():
                injection.gone_seconds = seconds
            elif seconds < GONE_SECONDS:
                continue
            watch.close()
            self._watches.remove((injection, watch))

    def _restart_driver(self) -> None:
        """Give the same command again, once the driver and all that had to go with it have ended."""
        injection = self._down
        if injection is None or (status := self._run.driver.poll()) is None:
            return
        if self._orders or any(watched is injection for watched, _ in self._watches):
            return
        injection.exit_status = status
        self._down = None
        self._new_step_time = time.monotonic()
        self._run.driver.start(self._run.cluster.address)
