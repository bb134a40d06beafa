import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.heartbeat import PHASES, HangLimits, Heartbeat, Pulse, create_page, hung, map_page, read
from tests.cluster.gang_process import wait_until

LIMITS = HangLimits(hang_seconds=30.0, start_seconds=120.0, progress_seconds=1800.0)
ALIVE = Pulse(step=7, phase="forward", beats=20, beat_time=1000.0, liveness_time=1000.0, done_step=6)


@pytest.fixture
def page_fd() -> Iterator[int]:
    fd = create_page(now=500.0)
    yield fd
    os.close(fd)


def test_page_fresh_has_fork_time_and_no_beats(page_fd: int) -> None:
    assert read(map_page(page_fd)) == Pulse(0, "fork", 0, 500.0, 0.0)


@pytest.mark.parametrize("phase", PHASES)
def test_beat_any_phase_is_read_back(page_fd: int, phase: str) -> None:
    before = time.monotonic()
    Heartbeat(page_fd).beat(12, phase)
    pulse = read(map_page(page_fd))
    assert (pulse.step, pulse.phase, pulse.beats) == (12, phase, 1)
    assert before <= pulse.beat_time <= time.monotonic()


def test_beat_unknown_phase_raises_and_writes_nothing(page_fd: int) -> None:
    with pytest.raises(KeyError):
        Heartbeat(page_fd).beat(1, "lunch")
    assert read(map_page(page_fd)).beats == 0


def test_beat_steps_keep_first_and_last_completed(page_fd: int) -> None:
    heartbeat, page = Heartbeat(page_fd), map_page(page_fd)
    heartbeat.beat(201, "forward")
    assert read(page).done_step == 0
    heartbeat.beat(201, "step")
    first = read(page)
    heartbeat.beat(202, "step")
    heartbeat.beat(203, "data")
    last = read(page)
    assert (first.done_step, first.first_done_step) == (201, 201)
    assert (last.done_step, last.first_done_step, last.step) == (202, 201, 203)
    assert last.first_done_time == first.first_done_time == pytest.approx(first.beat_time)


def beat_until_killed(page_fd: int, parent_pid: int) -> None:
    try:
        heartbeat = Heartbeat(page_fd)
        while os.getppid() == parent_pid:
            heartbeat.beat(1 << 40, "step")
    finally:
        os._exit(1)


def test_read_while_beaten_never_sees_a_number_half_written(page_fd: int) -> None:
    page = map_page(page_fd)
    started, parent = time.monotonic(), os.getpid()
    child = os.fork()
    if child == 0:
        beat_until_killed(page_fd, parent)
    try:
        wait_until(lambda: read(page).first_done_time > 0.0)
        pulses = [read(page) for _ in range(100_000)]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert {pulse.step for pulse in pulses} == {1 << 40}
    assert min(pulse.beat_time for pulse in pulses) >= started


def test_liveness_thread_stamps_without_beats(page_fd: int) -> None:
    heartbeat, page = Heartbeat(page_fd), map_page(page_fd)
    heartbeat.start_liveness(interval_seconds=0.01)
    started = read(page).liveness_time
    wait_until(lambda: read(page).liveness_time > started)
    heartbeat.close()
    assert read(page).beats == 0


def test_hung_alive_is_none() -> None:
    assert hung(ALIVE, 1030.0, LIMITS) is None


def test_hung_old_liveness_names_age_and_place() -> None:
    reason = hung(replace(ALIVE, beat_time=1031.0), 1031.0, LIMITS)
    assert reason == "stopped or starved (liveness 31.0 s old, in phase 'forward' of step 7)"


def test_hung_live_threads_without_progress_is_a_deadlock() -> None:
    pulse = replace(ALIVE, liveness_time=2801.0)
    assert hung(replace(pulse, beat_time=1001.5), 2801.0, LIMITS) is None
    reason = hung(pulse, 2801.0, LIMITS)
    assert reason == "no progress for 1801.0 s while its threads live (in phase 'forward' of step 7)"


def test_hung_before_first_beat_waits_for_start_limit() -> None:
    pulse = Pulse(0, "fork", 0, beat_time=1000.0, liveness_time=1121.0)
    assert hung(pulse, 1120.0, LIMITS) is None
    assert hung(pulse, 1121.0, LIMITS) == "no heartbeat 121.0 s after the start"


def test_hung_without_liveness_thread_judges_progress_alone() -> None:
    pulse = replace(ALIVE, liveness_time=0.0)
    assert hung(pulse, 2800.0, LIMITS) is None
    assert hung(pulse, 2801.0, LIMITS) is not None


@given(
    st.floats(0.0, 5000.0), st.floats(0.0, 5000.0), st.integers(0, 3), st.floats(5000.0, 9000.0), st.floats(0.0, 9e3)
)
def test_hung_once_dead_stays_dead(beat: float, live: float, beats: int, now: float, later: float) -> None:
    pulse = Pulse(1, "data", beats, beat, live)
    if hung(pulse, now, LIMITS) is not None:
        assert hung(pulse, now + later, LIMITS) is not None
