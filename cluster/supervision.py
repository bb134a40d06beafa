"""The loop of a supervisor around its one rank: it obeys the coordinator, and tells it what becomes of the rank."""

import logging
import os
import selectors
import time
from collections.abc import Callable
from typing import Any, NoReturn

from cluster.connection import Connection, ConnectionLostError
from cluster.coordinator_server import CoordinatorServer
from cluster.fence import Fence
from cluster.gang_journal import GangJournal
from cluster.messages import Dead, Done, Down, Finish, Hello, Message, Moving, Start, Stop, Stuck
from cluster.policy import Death, Diagnosis, GiveUp
from cluster.rank_memory import RankMemory
from cluster.rank_process import GOOD_STATUSES, RankProcess
from cluster.rank_watch import RankWatch
from cluster.spec import GangFailed, GangSpec, Outcome
from cluster.zygote_client import ZygoteClient, ZygoteGoneError

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
REAP_SECONDS = 10.0


class Supervision:
    """The loop around one rank. place: what the rank's spec says of its place in the gang; server: at rank 0."""

    def __init__(
        self,
        spec: GangSpec,
        place: dict[str, int],
        node: str,
        zygote: ZygoteClient,
        memory: RankMemory,
        on_tick: Callable[[], None],
    ) -> None:
        self._on_tick = on_tick
        self.server: CoordinatorServer | None = None
        self._spec = spec
        self._place = place
        self._rank = place["rank"]
        self._node = node
        self._zygote: ZygoteClient | None = zygote
        self._connection: Connection | None = None
        self._selector = selectors.DefaultSelector()
        self._process: RankProcess | None = None
        self._journal = GangJournal(spec.out_path) if self._rank == 0 else None
        self._fence = Fence(spec.out_path)
        self._start: Start | None = None  # the newest
        self._waiting = False  # to fork for it, until the zygote is ready
        self._restarting = False  # until the first step is completed after a restart
        self._preload_death: Death | None = None
        self._raylet_fd: int | None = None
        self._memory = memory
        self._watch = RankWatch(spec.hang_limits, self._fence, time.monotonic())
        self._outcome: Outcome | None = None

    def run(self, connection: Connection, raylet_pid: int | None) -> Outcome:
        """Turn until the gang has ended; owns the connection from now on."""
        self._connection = connection
        self._selector.register(connection, selectors.EVENT_READ, self._on_coordinator)
        self._watch_zygote()
        try:
            self._send(Hello(self._rank, self._node, self._spec.token))
            self._watch_raylet(raylet_pid)
            while self._outcome is None:
                self._turn()
        except ConnectionLostError as error:
            if self._process is not None:
                self._process.kill()
                if not self._process.reaped:  # else this gang's next attempt may have begun without a word
                    self._end_if_outrun(self._process.attempt)
            reason = f"lost the coordinator: {error}"
            raise GangFailed(Diagnosis("infrastructure", reason, self._attempt)) from error
        return self._outcome

    def close(self) -> None:
        """End rank, zygote and connection, whatever the reason is."""
        if self._process is not None:
            self._process.kill()
        if self._zygote is not None:
            self._zygote.close()
        if self._process is not None:
            self._process.is_over(REAP_SECONDS)
        self._release()
        if self._connection is not None:
            self._connection.close()
        if self.server is not None:
            self.server.close()
        if self._raylet_fd is not None:
            os.close(self._raylet_fd)
        self._selector.close()
        self._fence.close()
        if self._journal is not None:
            self._journal.close()

    def _turn(self) -> None:
        ready = self._selector.select(TICK_SECONDS)
        self._watch.look_up(time.monotonic())
        self._check_fence()
        for key, _ in ready:
            if key.fd in self._selector.get_map():  # not taken away in this turn
                key.data()
        if self._outcome is None:
            self._tick(time.monotonic())
        self._on_tick()

    def _check_fence(self) -> None:
        """End the rank if a newer attempt has begun, and tell the coordinator why this supervisor goes."""
        process, newest = self._process, self._watch.newer_attempt(self._process)
        if process is not None and newest is not None:
            process.kill()
            self._report(self._outrun_by(newest, process.attempt))
            self._end_outrun(newest, process.attempt)

    def _end_if_outrun(self, attempt: int) -> None:
        """Before the gang's end is told: whoever was outrun says so, or a gang that is begun next would outrun others.

        attempt: the newest that this gang may have taken, 0 if it has none yet.
        """
        newest = self._fence.look()
        if 0 < attempt < newest:
            self._end_outrun(newest, attempt)

    def _end_outrun(self, newest: int, attempt: int) -> NoReturn:
        """End the rank: nothing that it writes from now on is believed."""
        if self._process is not None:
            self._process.kill()
        if self._journal is not None:
            if self._journal.pipe is not None:
                self._journal.pipe.discard()
            self._journal.event(attempt, "fenced", newest=newest)
        death = self._outrun_by(newest, attempt)
        raise GangFailed(Diagnosis("infrastructure", death.reason, attempt, death))

    def _outrun_by(self, newest: int, attempt: int) -> Death:
        reason = f"attempt {newest} has begun elsewhere, so attempt {attempt} was ended"
        if self._process is None:
            return Death(self._rank, self._node, "fenced", reason)
        return self._process.death("fenced", reason)

    @property
    def _attempt(self) -> int:
        return self._start.attempt if self._start is not None else 0

    # ---- the coordinator's words

    def _send(self, message: Message) -> None:
        assert self._connection is not None
        self._connection.send(message)

    def _on_coordinator(self) -> None:
        assert self._connection is not None
        for message in self._connection.receive(time.monotonic()):
            self._obey(message)

    def _obey(self, message: Message) -> None:
        match message:
            case Start():
                self._on_start(message)
            case Stop():
                self._on_stop(message.attempt)
            case Finish():
                self._outcome = Outcome(message.status, message.attempt, message.step, message.restarts)
            case GiveUp():
                if self._process is not None:
                    self._process.kill()  # before anything that waits for the storage
                self._end_if_outrun(max(self._attempt, message.diagnosis.attempt))
                self._journal_death(message.diagnosis.death)
                raise GangFailed(message.diagnosis)
            case _:
                raise ConnectionLostError(f"unexpected message {message}")

    def _on_start(self, start: Start) -> None:
        self._journal_death(start.cause)
        self._release()
        self._start = start
        self._restarting = start.cause is not None
        self._waiting = True
        if self._preload_death is not None:
            self._report_unforked(self._preload_death)
        elif self._zygote is None:
            self._zygote = ZygoteClient(self._spec)
            self._watch_zygote()
        elif self._zygote.ready:
            self._fork()

    def _on_stop(self, attempt: int) -> None:
        if attempt != self._attempt:
            return
        self._waiting = False
        if self._process is None or self._process.reaped:
            self._say_down()
        else:
            self._process.stopping = True
            self._on_note()  # it may have met its end before it was asked
            self._tell(self._watch.stopped(self._process, time.monotonic()))
            self._process.kill()  # its end is heard of from the zygote

    def _say_down(self) -> None:
        step = self._process.pulse().done_step if self._process is not None else 0
        self._send(Down(self._attempt, self._rank, step))

    def _tell(self, finding: Dead | Stuck | Moving | None) -> None:
        if isinstance(finding, Dead):
            self._report(finding.death)
        elif finding is not None:
            self._send(finding)

    def _report(self, death: Death) -> None:
        logger.warning("rank %d of attempt %d: %s", self._rank, self._attempt, death.reason)
        self._send(Dead(self._attempt, death))

    def _report_unforked(self, death: Death) -> None:
        """Report why no rank was forked, if the coordinator waits for one."""
        if self._waiting:
            self._waiting = False
            self._report(death)

    # ---- the zygote's words

    def _watch_zygote(self) -> None:
        assert self._zygote is not None
        self._selector.register(self._zygote, selectors.EVENT_READ, self._on_zygote)

    def _on_zygote(self) -> None:
        assert self._zygote is not None
        try:
            packet = self._zygote.receive()
        except ZygoteGoneError as error:
            self._on_zygote_gone(str(error))
            return
        if packet["event"] == "ready":
            self._zygote.ready = True
            if self._waiting:
                self._fork()
        elif packet["event"] == "failed":
            reason = f"{self._spec.entry} cannot be preloaded: {packet['type']}: {packet['message']}"
            lines = tuple(packet["traceback"].splitlines())
            self._preload_death = Death(self._rank, self._node, "preload", reason, last_lines=lines)
            self._report_unforked(self._preload_death)
        elif packet["event"] == "exited":
            self._on_exit(packet["status"], packet["peak_bytes"])

    def _on_exit(self, status: int, peak_bytes: int) -> None:
        process = self._process
        assert process is not None
        process.reaped = True
        if self._restarting:
            self._journal_restart(process)
        self._on_note()
        if status in GOOD_STATUSES and not process.killed:
            self._send(Done(self._attempt, self._rank, status, process.pulse().done_step))
        elif process.ended_by_itself(status) and not process.reported:
            self._report(process.death_by_status(status, peak_bytes))
        if process.stopping:
            self._say_down()

    def _on_note(self) -> None:
        """The rank tells of its exception, and waits to be killed."""
        process = self._process
        if process is None:
            return
        more = process.read_note()
        death = process.death_by_note()
        if death is not None and not process.reported:
            process.reported = True
            self._report(death)
        if process.note_fd in self._selector.get_map() and (death is not None or not more):
            self._selector.unregister(process.note_fd)

    def _on_zygote_gone(self, reason: str) -> None:
        assert self._zygote is not None
        self._selector.unregister(self._zygote)
        self._zygote.close()
        self._zygote = None
        self._report_unforked(Death(self._rank, self._node, "zygote", reason))
        process = self._process
        if process is None or process.reaped:
            return
        process.kill()
        process.is_over(REAP_SECONDS)
        process.reaped = True
        self._report(process.death("zygote", reason))
        if process.stopping:
            self._say_down()

    # ---- forking and letting go

    def _fork(self) -> None:
        assert self._start is not None and self._zygote is not None
        fds: dict[str, int] = {}
        place: dict[str, Any] = {**self._place, "attempt": self._start.attempt, "node": self._node}
        place |= {"store_host": self._start.store_host, "store_port": self._start.store_port}
        place |= {"collective_seconds": self._spec.collective_seconds}
        if self.server is not None and self._journal is not None:
            pipe = self._journal.open_pipe(self._attempt)
            self._selector.register(pipe, selectors.EVENT_READ, self._on_journal)
            fds = {"journal": pipe.write_fd, "store": self.server.take_store(self._attempt).detach()}
        try:
            spec = {**self._spec.run_spec, **place}
            self._process = RankProcess(self._zygote, self._spec, self._node, spec, {**fds, **self._memory.fds()})
            self._selector.register(self._process.note_fd, selectors.EVENT_READ, self._on_note)
            self._waiting = False
        except ZygoteGoneError as error:
            self._on_zygote_gone(str(error))
        finally:
            for fd in fds.values():
                os.close(fd)

    def _release(self) -> None:
        """Let go of the rank that is gone, with its journal written to the end."""
        if self._process is not None:
            if self._process.note_fd in self._selector.get_map():
                self._selector.unregister(self._process.note_fd)
            self._process.close()
            self._process = None
        self._close_pipe()

    # ---- the journal (rank 0)

    def _on_journal(self) -> None:
        assert self._journal is not None
        if self._journal.pipe is not None and not self._journal.pipe.transfer():
            self._close_pipe()

    def _close_pipe(self) -> None:
        if self._journal is not None and self._journal.pipe is not None:
            self._selector.unregister(self._journal.pipe)
            self._journal.close_pipe()

    def _journal_death(self, death: Death | None) -> None:
        """Write the end of the attempt that failed into its own journal, after all that its rank wrote."""
        if self._journal is not None and death is not None and self._attempt > 0:
            self._journal.death(self._attempt, death)

    def _journal_restart(self, process: RankProcess) -> None:
        """Write how long the restart took, from the first word of the death to the first step completed after it."""
        pulse = process.pulse()
        if self._journal is None or pulse.first_done_time == 0.0 or self._start is None or self._start.detected is None:
            return
        self._restarting = False
        seconds = pulse.first_done_time - self._start.detected
        step = pulse.first_done_step - 1
        self._journal.event(self._attempt, "restart", seconds=seconds, resumed_step=step)

    # ---- time

    def _tick(self, now: float) -> None:
        assert self._connection is not None
        self._connection.tick(now)
        self._memory.look()
        if self._process is not None and not self._process.reaped:
            self._watch_rank(self._process, now)
        if self._waiting and self._zygote is not None and now - self._zygote.started > self._spec.start_seconds:
            self._on_zygote_gone(f"{self._spec.entry} was not preloaded within {self._spec.start_seconds:g} s")

    def _watch_rank(self, process: RankProcess, now: float) -> None:
        if self._restarting:
            self._journal_restart(process)
        self._tell(self._watch.stopped(process, now))
        self._tell(self._watch.stuck(process, now))

    def _watch_raylet(self, pid: int | None) -> None:
        if pid is None:
            return
        try:
            self._raylet_fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._on_raylet_dead()
        else:
            self._selector.register(self._raylet_fd, selectors.EVENT_READ, self._on_raylet_dead)

    def _on_raylet_dead(self) -> None:
        """The node is lost: end the rank at once, and tell the coordinator why this supervisor goes."""
        reason = f"the raylet of {self._node} died"
        death = Death(self._rank, self._node, "node", reason)
        if self._process is not None:
            self._process.kill()
            death = self._process.death("node", reason)
        self._report(death)
        raise GangFailed(Diagnosis("infrastructure", reason, self._attempt, death))
