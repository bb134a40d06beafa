"""Gang after gang, as cluster.restarts decides: its eyes and hands."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path

import ray.util

from cluster.capacity import HeadGoneError, check_head, draining_nodes, survey
from cluster.driver_cord import Cord
from cluster.gang import LOOPBACK, run_gang
from cluster.gang_folder import GangFolder, new_gang_folder
from cluster.gang_journal import append_event
from cluster.restarts import (
    Action,
    Capacity,
    Event,
    Finish,
    GangEnded,
    GiveUp,
    Limits,
    MakeWay,
    RestartState,
    Say,
    Start,
    StopAsked,
)
from cluster.settings import ClusterSettings, Resources
from cluster.snapshot_keeper_actor import SnapshotKeepers
from cluster.spec import GangSpec
from monitoring.journal import JournalReader
from monitoring.progress import ProgressView
from trainer.attempts import newest_attempt
from trainer.launch import last_place
from trainer.stop import ask_to_make_way, clear_make_way, is_stop_asked, is_to_make_way

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
SURVEY_SECONDS = 2.0
"""So often is the cluster looked at beside a running gang; with none, at every poll."""

REFUSED_HEAD_SECONDS, SILENT_HEAD_SECONDS = 2.0, 45.0
"""A head whose machine refuses connections for so long is gone; silence may be the network's, and pass."""

UNANSWERED_STOP_LIMITS = 2
"""A stop has failed when so many times the limit between two signs of a rank's progress went by without a record: a
long step, an evaluation or the last save may be under way."""

MakeSpec = Callable[[int], GangSpec]


def limits_of(settings: ClusterSettings, resources: Resources) -> Limits:
    """What the policy is bound by."""
    return Limits(
        min_workers=resources.min_workers,
        max_workers=resources.workers,
        max_failures=settings.max_failures,
        max_preemptions=settings.max_preemptions,
        wait_seconds=settings.wait_seconds,
    )


class GangLoop:
    """Runs gangs until the run has ended. Only `run` is for others.

    Args:
        make_spec: the spec of a gang that may restart its ranks so often.
        resources: what each worker takes; keepers: of the run's snapshots, closed at the end; is_local: all workers
            are on this machine.
    """

    def __init__(
        self,
        out_dir: Path,
        make_spec: MakeSpec,
        limits: Limits,
        resources: Resources,
        keepers: SnapshotKeepers,
        *,
        is_local: bool,
    ) -> None:
        self._out_dir = out_dir
        self._make_spec = make_spec
        self._resources = resources
        self._keepers = keepers
        self._host = LOOPBACK if is_local else ray.util.get_node_ip_address()
        self._reader = JournalReader(out_dir)
        self._reader.poll()
        self._state = RestartState(limits, since=time.monotonic())
        self._gang: Future[GangEnded] | None = None
        self._cord: Cord | None = None  # that the gang's workers hold on to
        self._folder: GangFolder | None = None  # of the gang
        self._progress_seconds = 0.0  # the gang's limit
        self._attempt_before = newest_attempt(out_dir)
        self._last: GangEnded | None = None  # the newest gang's end
        self._last_workers, self._last_time = 0, 0.0
        self._unsure: frozenset[str] = frozenset()  # nodes that Ray takes for alive and that do not answer
        self._next_survey = 0.0
        self._heard = time.monotonic()
        self._headless_since: float | None = None
        self._end: Finish | GiveUp | None = None

    def run(self, total_tokens: int) -> Finish | GiveUp:
        """Train to the end, showing the journal; how the run ended."""
        try:
            with ProgressView(total_tokens) as view:
                while self._end is None:
                    self._turn(view)
        finally:
            self._cut_cord()
        if isinstance(self._end, GiveUp) and self._end.kind == "head":  # Ray takes no orders without a head
            self._keepers.let_go()
        else:
            self._keepers.close()
        return self._end

    def _turn(self, view: ProgressView) -> None:
        if self._gang is None:
            time.sleep(POLL_SECONDS)
        else:
            wait([self._gang], timeout=POLL_SECONDS)
        self._keepers.look()
        records = self._reader.poll()
        view.feed(records)
        now = time.monotonic()
        if self._gang is not None and self._gang.done():
            self._on_end(self._gang.result(), now)
        elif self._gang is None and is_stop_asked(self._out_dir):
            self._handle(StopAsked(), now)
        elif now >= self._next_survey and self._is_head_there(now):
            self._handle(self._capacity(), now)
            self._next_survey = now + (0.0 if self._gang is None else SURVEY_SECONDS)
        self._watch_stop(bool(records), now)

    # ---- eyes

    def _is_head_there(self, now: float) -> bool:
        """Ends the run if the cluster's head is gone: nothing that is left of the cluster can be used without it."""
        try:
            check_head()
        except HeadGoneError as error:
            self._headless_since = self._headless_since or now
            if now - self._headless_since > (REFUSED_HEAD_SECONDS if error.refused else SILENT_HEAD_SECONDS):
                self._end = GiveUp("head", f"{error}; the same command goes on, on the cluster's next head")
            return False
        self._headless_since = None
        return True

    def _capacity(self) -> Capacity:
        free, self._unsure = survey(self._resources.per_worker)
        self._keepers.cover_nodes(self._unsure)
        places = self._folder.places() if self._folder is not None else ()
        return Capacity(free, draining_nodes(), frozenset(place.node_id for place in places))

    def _watch_stop(self, heard: bool, now: float) -> None:
        """A stop that no rank answers ends the run as failed."""
        if heard or self._gang is None or not is_stop_asked(self._out_dir):
            self._heard = now
        elif now - self._heard > UNANSWERED_STOP_LIMITS * self._progress_seconds:
            text = f"no rank answered the request to stop within {now - self._heard:.0f} s"
            self._end = GiveUp("infrastructure", text)

    def _on_end(self, end: GangEnded, now: float) -> None:
        newest = newest_attempt(self._out_dir)
        restarts = max(0, newest - self._attempt_before - 1)
        status = "made_way" if end.status == "stopped" and is_to_make_way(self._out_dir) else end.status
        self._gang, self._folder, self._next_survey = None, None, 0.0
        self._cut_cord()
        self._last = replace(end, status=status, step=last_place(self._out_dir)[0], restarts=restarts)
        self._last_time = now
        if self._last.text:
            logger.warning("%s", self._last.text)
        clear_make_way(self._out_dir)
        self._handle(self._last, now)

    # ---- hands

    def _handle(self, event: Event, now: float) -> None:
        self._state, actions = self._state.handle(event, now)
        for action in actions:
            self._act(action, now)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Start():
                self._start(action, now)
            case MakeWay():
                logger.warning("the gang saves and makes way at the next step border: %s", action.reason)
                ask_to_make_way(self._out_dir)
            case Say():
                logger.warning("%s", action.text)
            case Finish() | GiveUp():
                self._end = action

    def _start(self, start: Start, now: float) -> None:
        self._tell_of(start, now)
        self._attempt_before = newest_attempt(self._out_dir)
        self._last_workers = start.workers
        spec = self._make_spec(start.max_failures)
        self._progress_seconds = spec.progress_seconds
        self._cord = cord = Cord(self._host, start.workers)
        self._folder = folder = new_gang_folder(self._out_dir, secrets.token_hex(4))
        future: Future[GangEnded] = Future()

        def run() -> None:
            try:
                end = run_gang(spec, start, folder, cord, self._unsure, self._resources)
                future.set_result(end)
            except BaseException as error:  # noqa: BLE001  it is raised again by whoever asks for the result
                future.set_exception(error)

        # In the main thread Ray Train would take over Ctrl-C. A daemon, so that a gang that never comes to its end does
        # not hold the driver.
        threading.Thread(target=run, name="gang", daemon=True).start()
        self._gang = future

    def _cut_cord(self) -> None:
        """Whatever is left of the gang ends at once."""
        if self._cord is not None:
            self._cord.close()
            self._cord = None

    def _tell_of(self, start: Start, now: float) -> None:
        """Say what starts, and put into the journal that it is not the first."""
        device = "GPUs" if self._resources.gpus_per_worker else "CPUs"
        logger.info("starting %d workers on %s", start.workers, device)
        attempt = newest_attempt(self._out_dir)
        if self._last is None or attempt == 0:
            return
        if start.workers != self._last_workers:
            worlds = {"from_world": self._last_workers, "to_world": start.workers}
            append_event(self._out_dir, attempt, "resize", step=self._last.step, **worlds)
        append_event(
            self._out_dir,
            attempt,
            "gang_restart",
            reason=self._last.text or "the gang made way",
            kind=self._last.kind or self._last.status,
            after_seconds=now - self._last_time,
            world_size=start.workers,
            excluded_nodes=sorted(start.left_out | self._unsure),
        )
