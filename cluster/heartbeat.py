"""A shared page by which a rank shows that it lives and moves; its supervisor reads it without asking.

The loop writes step and phase (`beat`); a daemon thread stamps the liveness. When one rank stops, all stop to
progress, but only the stopped one's liveness grows old: that one is named. When a rank stands still while its threads
live, the others wait for it, and look the same: it is named by being the furthest behind (`Pulse.place`).
"""

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from typing import Literal

PHASES = ("fork", "init", "load", "data", "forward", "backward", "collective", "step", "eval", "save", "export", "end")
"""Names of the phases; the page holds their index. `step` is written when a training step is complete."""

PAGE_BYTES = 4096
LIVENESS_INTERVAL_SECONDS = 0.2

SILENT_STEPS = 10.0
"""With `auto`, a rank that is silent for so many steps counts as stopped."""

LEAST_AUTO_SECONDS, MOST_AUTO_SECONDS = 5.0, 30.0
"""Where `auto` ends at either side: a thread waits while other code holds the interpreter, however short a step is;
and it stamps in a step of many minutes as often as in any other."""

SLOWEST_SHARE = 10.0
"""A rank stands still when a phase of a step takes so many times as long as the slowest of late."""

LONGER_THAN_STOPPED = 1.5
"""How much longer than a stopped rank's silence a standstill is borne, so that whoever stopped is named first."""

FORGETTING = 0.95
"""The slowest of late is the last duration, or this share of what it was before, whichever is longer."""

# Numbers of 8 bytes, in native order; the loop and the thread write to places of their own. Each number is stored by
# one aligned copy, so a reader sees the old or the new one. (`struct.pack_into` would first fill its place with
# zeros, and readers do see those.) Fields of one beat may be of two beats; every use below bears that.
_STEP_AT, _PHASE_AT, _BEATS_AT, _BEAT_TIME_AT = 0, 1, 2, 3
_DONE_AT, _FIRST_DONE_AT, _FIRST_DONE_TIME_AT = 8, 9, 10
_LIVENESS_AT = 16
_STEP_SECONDS_AT, _PHASE_SECONDS_AT = 24, 32
_PAGE = struct.Struct("qqqd 32x qqd 40x d 56x d")
_SECONDS = struct.Struct("d")

_CODES = {name: code for code, name in enumerate(PHASES)}
_DATA, _COLLECTIVE, _STEP = _CODES["data"], _CODES["collective"], _CODES["step"]
_COMPUTING = frozenset({"forward", "backward", "collective", "step"})  # not eval: it reads shards


@dataclass(frozen=True)
class Pulse:
    """What the page says. Times are `time.monotonic()` seconds of this machine; 0 where nothing was written yet.

    step: the step in work (1 is the first); done_step: the last completed one in this attempt, 0 if none;
    first_done_step, first_done_time: the first completed one in this attempt; beats: number of beats so far;
    step_seconds: the slowest step of late, from its data to its end; phase_seconds: the slowest of late from a beat
    of the present phase to the next beat.
    """

    step: int
    phase: str
    beats: int
    beat_time: float
    liveness_time: float
    done_step: int = 0
    first_done_step: int = 0
    first_done_time: float = 0.0
    step_seconds: float = 0.0
    phase_seconds: float = 0.0

    @property
    def last_sign(self) -> float:
        """When the rank last showed that it lives."""
        return max(self.liveness_time, self.beat_time)

    @property
    def place(self) -> tuple[int, int, int]:
        """How far the rank has come, to be compared with other ranks of its attempt: step, part of it, beats.

        The parts are passes, update and what follows; phases within one come several times, or in another order at the
        end of the run, so the beats tell them apart.
        """
        code = _CODES[self.phase]
        part = 0 if code < _COLLECTIVE else 1 if code == _COLLECTIVE else 2
        return self.step, part, self.beats


def auto_hang_seconds(step_seconds: float) -> float:
    """Silence after which a rank whose steps take so long counts as stopped, where the run file leaves it to us."""
    return min(max(SILENT_STEPS * step_seconds, LEAST_AUTO_SECONDS), MOST_AUTO_SECONDS)


@dataclass(frozen=True)
class HangLimits:
    """Seconds of silence that are borne: of the liveness thread, until the first beat, between two beats at most.

    hang_seconds: `auto` follows the observed step time.
    """

    hang_seconds: float | Literal["auto"] = "auto"
    start_seconds: float = 120.0
    progress_seconds: float = 600.0

    def liveness_seconds(self, pulse: Pulse) -> float:
        """Silence of the liveness thread after which the rank counts as stopped."""
        if self.hang_seconds != "auto":
            return self.hang_seconds
        if pulse.step_seconds == 0.0 or not _DATA <= _CODES[pulse.phase] <= _STEP:
            return MOST_AUTO_SECONDS
        return auto_hang_seconds(pulse.step_seconds)

    def standstill_seconds(self, pulse: Pulse) -> float:
        """Time since the last beat after which the rank counts as standing still, as far as it alone can tell.

        Phases that wait for storage, and a phase that is met for the first time (a compiler may be at work), get all
        of progress_seconds.
        """
        if pulse.phase not in _COMPUTING or pulse.phase_seconds == 0.0:
            return self.progress_seconds
        least = LONGER_THAN_STOPPED * self.liveness_seconds(pulse)
        return min(max(SLOWEST_SHARE * pulse.phase_seconds, least), self.progress_seconds)


def create_page(now: float) -> int:
    """Make a page for a rank that is forked at `now`; returns its file descriptor, which the caller closes."""
    fd = os.memfd_create("headrace-heartbeat")
    os.ftruncate(fd, PAGE_BYTES)
    os.pwrite(fd, _PAGE.pack(0, 0, 0, now, 0, 0, 0.0, 0.0, 0.0), 0)
    return fd


def map_page(fd: int) -> mmap.mmap:
    """Map the page of `fd`; the descriptor may be closed afterwards."""
    return mmap.mmap(fd, PAGE_BYTES)


class Heartbeat:
    """The rank's side of the page behind `fd`."""

    def __init__(self, fd: int) -> None:
        page = memoryview(map_page(fd))
        self._integers = page.cast("q")
        self._floats = page.cast("d")
        self._beats = 0
        self._step_began = 0.0
        self._closed = threading.Event()

    def beat(self, step: int, phase: str) -> None:
        """Say that the loop works on `step`, in `phase` (one of PHASES, else KeyError); `step`: it is complete."""
        code = _CODES[phase]
        now = time.monotonic()
        integers, floats = self._integers, self._floats
        before = integers[_PHASE_AT]
        self._remember(_PHASE_SECONDS_AT + before, now - floats[_BEAT_TIME_AT])
        if code == _DATA and before != _DATA:
            self._step_began = now
        self._beats += 1
        integers[_STEP_AT] = step
        integers[_PHASE_AT] = code
        floats[_BEAT_TIME_AT] = now
        integers[_BEATS_AT] = self._beats
        if code == _STEP:
            self._complete(step, now)

    def _complete(self, step: int, now: float) -> None:
        integers, floats = self._integers, self._floats
        integers[_DONE_AT] = step
        if floats[_FIRST_DONE_TIME_AT] == 0.0:
            integers[_FIRST_DONE_AT] = step
            floats[_FIRST_DONE_TIME_AT] = now
        if self._step_began > 0.0:
            self._remember(_STEP_SECONDS_AT, now - self._step_began)

    def _remember(self, at: int, seconds: float) -> None:
        self._floats[at] = max(seconds, FORGETTING * self._floats[at])

    def start_liveness(self, interval_seconds: float = LIVENESS_INTERVAL_SECONDS) -> None:
        """Start the thread that stamps the liveness; in the rank, after the fork."""
        self._floats[_LIVENESS_AT] = time.monotonic()
        threading.Thread(target=self._stamp, args=(interval_seconds,), name="liveness", daemon=True).start()

    def close(self) -> None:
        """End the liveness thread."""
        self._closed.set()

    def _stamp(self, interval_seconds: float) -> None:
        while not self._closed.wait(interval_seconds):
            self._floats[_LIVENESS_AT] = time.monotonic()


def read(page: mmap.mmap) -> Pulse:
    """Read the page."""
    numbers = _PAGE.unpack_from(page)
    step, code, beats, beat_time, done_step, first_step, first_time, liveness_time, step_seconds = numbers
    [phase_seconds] = _SECONDS.unpack_from(page, 8 * (_PHASE_SECONDS_AT + code))
    done = (done_step, first_step, first_time)
    return Pulse(step, PHASES[code], beats, beat_time, liveness_time, *done, step_seconds, phase_seconds)


def stopped(pulse: Pulse, now: float, limits: HangLimits) -> str | None:
    """Why the rank counts as dead at `now` (monotonic seconds), whatever the others do; None while it does not."""
    beat_age = now - pulse.beat_time
    if pulse.beats == 0 and beat_age > limits.start_seconds:
        return f"no heartbeat {beat_age:.1f} s after the start"
    age = now - pulse.liveness_time
    if pulse.liveness_time > 0.0 and age > limits.liveness_seconds(pulse):
        return f"stopped or starved (liveness {age:.1f} s old, in {_place(pulse)})"
    return None


def stands_still(pulse: Pulse, now: float, limits: HangLimits) -> str | None:
    """Why the rank counts as standing still at `now`, or None. It may be waiting for another one."""
    age = now - pulse.beat_time
    if pulse.beats == 0 or age <= limits.standstill_seconds(pulse):
        return None
    return f"no progress for {age:.1f} s while its threads live (in {_place(pulse)})"


def _place(pulse: Pulse) -> str:
    return f"phase {pulse.phase!r} of step {pulse.step}"
