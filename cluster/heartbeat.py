"""A shared page by which a rank shows that it lives and moves; its supervisor reads it without asking.

The loop writes step and phase (`beat`); a daemon thread stamps the liveness. When one rank stops, all stop to
progress, but only the stopped one's liveness grows old: that one is named.
"""

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass

PHASES = ("fork", "init", "load", "data", "forward", "backward", "step", "eval", "save", "export", "end")
"""Names of the phases; the page holds their index. `step` is written when a training step is complete."""

PAGE_BYTES = 4096
LIVENESS_INTERVAL_SECONDS = 0.2

# Numbers of 8 bytes, in native order; the loop and the thread write to places of their own. Each number is stored by
# one aligned copy, so a reader sees the old or the new one. (`struct.pack_into` would first fill its place with
# zeros, and readers do see those.) Fields of one beat may be of two beats; every use below bears that.
_STEP_AT, _PHASE_AT, _BEATS_AT, _BEAT_TIME_AT = 0, 1, 2, 3
_DONE_AT, _FIRST_DONE_AT, _FIRST_DONE_TIME_AT = 8, 9, 10
_LIVENESS_AT = 16
_PAGE = struct.Struct("qqqd 32x qqd 40x d")

_CODES = {name: code for code, name in enumerate(PHASES)}
_STEP = _CODES["step"]


@dataclass(frozen=True)
class Pulse:
    """What the page says. Times are `time.monotonic()` seconds of this machine; 0 where nothing was written yet.

    step: the step in work (1 is the first); done_step: the last completed one in this attempt, 0 if none;
    first_done_step, first_done_time: the first completed one in this attempt; beats: number of beats so far.
    """

    step: int
    phase: str
    beats: int
    beat_time: float
    liveness_time: float
    done_step: int = 0
    first_done_step: int = 0
    first_done_time: float = 0.0


@dataclass(frozen=True)
class HangLimits:
    """Seconds of silence that are borne: of the liveness thread, until the first beat, between two beats."""

    hang_seconds: float = 30.0
    start_seconds: float = 120.0
    progress_seconds: float = 1800.0


def create_page(now: float) -> int:
    """Make a page for a rank that is forked at `now`; returns its file descriptor, which the caller closes."""
    fd = os.memfd_create("headrace-heartbeat")
    os.ftruncate(fd, PAGE_BYTES)
    os.pwrite(fd, _PAGE.pack(0, 0, 0, now, 0, 0, 0.0, 0.0), 0)
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
        self._closed = threading.Event()

    def beat(self, step: int, phase: str) -> None:
        """Say that the loop works on `step`, in `phase` (one of PHASES, else KeyError); `step`: it is complete."""
        code = _CODES[phase]
        now = time.monotonic()
        self._beats += 1
        integers, floats = self._integers, self._floats
        integers[_STEP_AT] = step
        integers[_PHASE_AT] = code
        floats[_BEAT_TIME_AT] = now
        integers[_BEATS_AT] = self._beats
        if code == _STEP:
            integers[_DONE_AT] = step
            if floats[_FIRST_DONE_TIME_AT] == 0.0:
                integers[_FIRST_DONE_AT] = step
                floats[_FIRST_DONE_TIME_AT] = now

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
    step, code, beats, beat_time, done_step, first_step, first_time, liveness_time = _PAGE.unpack_from(page)
    return Pulse(step, PHASES[code], beats, beat_time, liveness_time, done_step, first_step, first_time)


def hung(pulse: Pulse, now: float, limits: HangLimits) -> str | None:
    """Why the rank counts as dead at `now` (monotonic seconds), or None while it does not."""
    liveness_age = now - pulse.liveness_time
    if pulse.liveness_time > 0.0 and liveness_age > limits.hang_seconds:
        return f"stopped or starved (liveness {liveness_age:.1f} s old, in {_place(pulse)})"
    beat_age = now - pulse.beat_time
    if pulse.beats == 0:
        late = beat_age > limits.start_seconds
        return f"no heartbeat {beat_age:.1f} s after the start" if late else None
    if beat_age > limits.progress_seconds:
        return f"no progress for {beat_age:.1f} s while its threads live (in {_place(pulse)})"
    return None


def _place(pulse: Pulse) -> str:
    return f"phase {pulse.phase!r} of step {pulse.step}"
