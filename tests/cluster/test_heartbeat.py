import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.heartbeat import (
    FORGETTING,
    LEAST_AUTO_SECONDS,
    LONGER_THAN_STOPPED,
    MOST_AUTO_SECONDS,
    PHASES,
    SILENT_STEPS,
    HangLimits,
    Heartbeat,
    Pulse,
    create_page,
    map_page,
    read,
    stands_still,
    stopped,
)
from tests.cluster.gang_process import wait_until

LIMITS = HangLimits(hang_seconds=30.0, start_seconds=120.0, progress_seconds=600.0)
AUTO = HangLimits("auto", start_seconds=120.0, progress_seconds=600.0)
ALIVE = Pulse(step=7, phase="forward", beats=20, beat_time=1000.0, liveness_time=1000.0, done_step=6)
TRAINING = replace(ALIVE, step_seconds=0.8, phase_seconds=0.3)


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


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("cluster.heartbeat.time", made)
    return made


def walk(heartbeat: Heartbeat, clock: Clock, way: list[tuple[int, str, float]]) -> None:
    """Beat, then let the seconds pass, one after the other."""
    for step, phase, seconds in way:
        heartbeat.beat(step, phase)
        clock.now += seconds


def test_beat_steps_remember_the_slowest_of_late(page_fd: int, clock: Clock) -> None:
    heartbeat, page = Heartbeat(page_fd), map_page(page_fd)
    walk(heartbeat, clock, [(1, "data", 1.0), (1, "forward", 2.0), (1, "backward", 3.0), (1, "step", 0.0)])
    assert read(page).step_seconds == 6.0
    # An evaluation between two steps belongs to neither.
    walk(heartbeat, clock, [(1, "eval", 50.0), (2, "data", 1.0), (2, "forward", 1.0), (2, "step", 0.0)])
    assert read(page).step_seconds == pytest.approx(6.0 * FORGETTING)
    walk(heartbeat, clock, [(3, "data", 9.0), (3, "step", 0.0)])
    assert read(page).step_seconds == 9.0


def test_beat_phases_remember_the_slowest_of_late_each_for_itself(page_fd: int, clock: Clock) -> None:
    heartbeat, page = Heartbeat(page_fd), map_page(page_fd)
    walk(heartbeat, clock, [(1, "forward", 7.0), (1, "backward", 1.0), (1, "forward", 2.0), (1, "backward", 1.5)])
    assert (read(page).phase, read(page).phase_seconds) == ("backward", 1.0)  # the second is not over yet
    walk(heartbeat, clock, [(1, "forward", 0.0)])
    assert read(page).phase_seconds == pytest.approx(7.0 * FORGETTING)
    walk(heartbeat, clock, [(1, "step", 0.0), (1, "eval", 4.0), (1, "eval", 0.0)])
    assert read(page).phase_seconds == 4.0


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


def test_stopped_alive_is_none() -> None:
    assert stopped(ALIVE, 1030.0, LIMITS) is None
    assert stopped(TRAINING, 1008.0, AUTO) is None


def test_stopped_old_liveness_names_age_and_place() -> None:
    reason = stopped(replace(ALIVE, beat_time=1031.0), 1031.0, LIMITS)
    assert reason == "stopped or starved (liveness 31.0 s old, in phase 'forward' of step 7)"


@pytest.mark.parametrize(
    ("step_seconds", "phase", "seconds"),
    [
        (0.01, "forward", LEAST_AUTO_SECONDS),
        (0.8, "collective", SILENT_STEPS * 0.8),
        (60.0, "backward", MOST_AUTO_SECONDS),
        (0.0, "forward", MOST_AUTO_SECONDS),  # no step is known yet
        (0.8, "eval", MOST_AUTO_SECONDS),
        (0.8, "load", MOST_AUTO_SECONDS),
    ],
)
def test_stopped_auto_follows_the_steps_between_bounds(step_seconds: float, phase: str, seconds: float) -> None:
    pulse = replace(ALIVE, step_seconds=step_seconds, phase=phase)
    assert stopped(pulse, 1000.0 + seconds - 0.01, AUTO) is None
    assert stopped(pulse, 1000.0 + seconds + 0.01, AUTO) is not None


def test_stopped_before_first_beat_waits_for_start_limit() -> None:
    pulse = Pulse(0, "fork", 0, beat_time=1000.0, liveness_time=1121.0)
    assert stopped(pulse, 1120.0, LIMITS) is None
    assert stopped(pulse, 1121.0, LIMITS) == "no heartbeat 121.0 s after the start"


def test_stands_still_live_threads_without_progress() -> None:
    pulse = replace(TRAINING, liveness_time=1400.0)
    least = LONGER_THAN_STOPPED * LIMITS.liveness_seconds(pulse)
    assert stands_still(pulse, 1000.0 + least, LIMITS) is None
    reason = stands_still(pulse, 1001.0 + least, LIMITS)
    assert reason == "no progress for 46.0 s while its threads live (in phase 'forward' of step 7)"


def test_stands_still_slow_phase_gets_a_multiple_of_its_slowest() -> None:
    pulse = replace(TRAINING, phase_seconds=20.0)
    assert stands_still(pulse, 1200.0, LIMITS) is None
    assert stands_still(pulse, 1200.1, LIMITS) is not None


@pytest.mark.parametrize("phase", ["init", "load", "data", "save", "export"])
def test_stands_still_phases_of_storage_get_all_the_patience(phase: str) -> None:
    """A storage that stalls for minutes is no reason to start anew."""
    pulse = replace(TRAINING, phase=phase, phase_seconds=0.01)
    assert stands_still(pulse, 1600.0, AUTO) is None
    assert stands_still(pulse, 1600.1, AUTO) is not None


def test_stands_still_phase_met_for_the_first_time_gets_all_the_patience() -> None:
    pulse = replace(TRAINING, phase_seconds=0.0)
    assert stands_still(pulse, 1600.0, AUTO) is None
    assert stands_still(pulse, 1600.1, AUTO) is not None


def test_place_tells_who_is_behind_in_the_passes_of_a_step() -> None:
    pulses = [
        Pulse(7, "backward", 31, 0.0, 0.0),
        Pulse(7, "forward", 32, 0.0, 0.0),  # of the second pass
        Pulse(7, "collective", 30, 0.0, 0.0),
        Pulse(7, "step", 30, 0.0, 0.0),
        Pulse(7, "save", 31, 0.0, 0.0),
        Pulse(7, "eval", 32, 0.0, 0.0),  # the last one comes after the last save
        Pulse(8, "data", 30, 0.0, 0.0),
    ]
    assert sorted(pulses, key=lambda pulse: pulse.place) == pulses


pulses = st.builds(
    Pulse,
    step=st.just(1),
    phase=st.sampled_from(PHASES),
    beats=st.integers(0, 3),
    beat_time=st.floats(0.0, 5000.0),
    liveness_time=st.floats(0.0, 5000.0),
    step_seconds=st.floats(0.0, 100.0),
    phase_seconds=st.floats(0.0, 100.0),
)


@given(pulses, st.floats(5000.0, 9000.0), st.floats(0.0, 9e3), st.sampled_from([AUTO, LIMITS]))
def test_verdicts_once_dead_stay_so(pulse: Pulse, now: float, later: float, limits: HangLimits) -> None:
    for verdict in (stopped, stands_still):
        if verdict(pulse, now, limits) is not None:
            assert verdict(pulse, now + later, limits) is not None


@given(pulses, st.floats(0.5, 100.0))
def test_standstill_is_never_found_before_a_stop(pulse: Pulse, seconds: float) -> None:
    """Else a rank that waits could be named instead of the one that was stopped."""
    limits = HangLimits(seconds, 120.0, 600.0)
    assert limits.standstill_seconds(pulse) > limits.liveness_seconds(pulse) == seconds
    assert AUTO.standstill_seconds(pulse) > AUTO.liveness_seconds(pulse)
