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

# Native layout: each number is stored by one aligned copy. Fields of one beat may be read half old, half new; every
# use below bears that. The thread and the loop write to places of their own.
_LOOP = struct.Struct("qqqd")  # step, phase, beats, time
_DONE = struct.Struct("qqd")  # last completed step, first completed step, time of the first
_DONE_LAST = struct.Struct("q")
_TIME = struct.Struct("d")
_LOOP_AT, _DONE_AT, _LIVENESS_AT = 0, 64, 128

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
    os.pwrite(fd, _LOOP.pack(0, 0, 0, now), _LOOP_AT)
    return fd


def map_page(fd: int) -> mmap.mmap:
    """Map the page of `fd`; the descriptor may be closed afterwards."""
    return mmap.mmap(fd, PAGE_BYTES)


class Heartbeat:
    """The rank's side of the page behind `fd`."""

    def __init__(self, fd: int) -> None:
        self._page = map_page(fd)
        self._beats = 0
        self._first_done = False
        self._closed = threading.Event()

    def beat(self, step: int, phase: str) -> None:
        """Say that the loop works on `step`, in `phase` (one of PHASES, else KeyError); `step`: it is complete."""
        code = _CODES[phase]
        now = time.monotonic()
        self._beats += 1
        _LOOP.pack_into(self._page, _LOOP_AT, step, code, self._beats, now)
        if code == _STEP:
            self._complete(step, now)

    def start_liveness(self, interval_seconds: float = LIVENESS_INTERVAL_SECONDS) -> None:
        """Start the thread that stamps the liveness; in the rank, after the fork."""
        _TIME.pack_into(self._page, _LIVENESS_AT, time.monotonic())
        threading.Thread(target=self._stamp, args=(interval_seconds,), name="liveness", daemon=True).start()

    def close(self) -> None:
        """End the liveness thread."""
        self._closed.set()

    def _complete(self, step: int, now: float) -> None:
        if self._first_done:
            _DONE_LAST.pack_into(self._page, _DONE_AT, step)
        else:
            self._first_done = True
            _DONE.pack_into(self._page, _DONE_AT, step, step, now)

    def _stamp(self, interval_seconds: float) -> None:
        while not self._closed.wait(interval_seconds):
            _TIME.pack_into(self._page, _LIVENESS_AT, time.monotonic())


def read(page: mmap.mmap) -> Pulse:
    """Read the page."""
    step, code, beats, beat_time = _LOOP.unpack_from(page, _LOOP_AT)
    done_step, first_done_step, first_done_time = _DONE.unpack_from(page, _DONE_AT)
    (liveness_time,) = _TIME.unpack_from(page, _LIVENESS_AT)
    return Pulse(step, PHASES[code], beats, beat_time, liveness_time, done_step, first_done_step, first_done_time)


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
