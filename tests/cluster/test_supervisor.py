import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import gang_journal, out_of_memory, processes
from cluster.gang_journal import journal_path
from cluster.out_of_memory import ADVICE, MemoryKills
from cluster.policy import Diagnosis
from cluster.rank_memory import RankMemory
from cluster.spec import GangFailed, GangSpec, Outcome
from cluster.supervisor import supervise
from tests.cluster.gang_process import (
    DEADLINE_SECONDS,
    make_spec,
    read_lines,
    run_in_threads,
    start_process,
    wait_until,
)

PING_SECONDS = 0.3

Start = Callable[..., subprocess.Popen[bytes]]


def fault(do: str, rank: int = 1, step: int = 5, attempts: tuple[int, ...] = (1,), **more: Any) -> dict[str, Any]:
    return {"rank": rank, "step": step, "attempts": list(attempts), "do": do, **more}


def steps_of(out_dir: Path, attempt: int) -> list[int]:
    return [record["step"] for record in read_lines(journal_path(out_dir, attempt)) if "event" not in record]


def events_of(out_dir: Path, attempt: int) -> list[dict[str, Any]]:
    return [record for record in read_lines(journal_path(out_dir, attempt)) if "event" in record]


def diagnoses(spec: GangSpec, world_size: int = 2) -> list[Diagnosis]:
    results = run_in_threads(spec, world_size)
    assert all(isinstance(result, GangFailed) for result in results), results
    return [result.diagnosis for result in results if isinstance(result, GangFailed)]


def test_gang_without_faults_finishes(tmp_path: Path) -> None:
    assert run_in_threads(make_spec(tmp_path, 10), 2) == [Outcome("finished", 1, 10, 0)] * 2
    assert steps_of(tmp_path, 1) == list(range(1, 11))
    assert events_of(tmp_path, 1) == []


def test_gang_of_one_finishes(tmp_path: Path) -> None:
    outcome = supervise(make_spec(tmp_path, 4), 0, 1)
    assert outcome == Outcome("finished", 1, 4, 0)


def test_gang_started_again_takes_the_next_attempt(tmp_path: Path) -> None:
    run_in_threads(make_spec(tmp_path, 3), 2)
    assert run_in_threads(make_spec(tmp_path, 6), 2) == [Outcome("finished", 2, 6, 0)] * 2
    assert steps_of(tmp_path, 2) == [4, 5, 6]


@pytest.mark.parametrize(("world_size", "victim"), [(2, 0), (2, 1), (4, 3)])
def test_gang_rank_killed_is_replaced_within_a_second(tmp_path: Path, world_size: int, victim: int) -> None:
    spec = make_spec(tmp_path, 10, [fault("SIGKILL", rank=victim)])
    assert run_in_threads(spec, world_size) == [Outcome("finished", 2, 10, 1)] * world_size
    first, second = steps_of(tmp_path, 1), steps_of(tmp_path, 2)
    assert first == list(range(1, first[-1] + 1))
    # Rank 0 may be killed between a step and its checkpoint: that step is run, and stands, twice.
    assert second == list(range(second[0], 11)) and first[-1] in (second[0] - 1, second[0])
    (killed,) = read_lines(tmp_path / "faults.jsonl")
    entered = [line for line in read_lines(tmp_path / "entered.jsonl") if line["attempt"] == 2]
    assert sorted(line["rank"] for line in entered) == list(range(world_size))
    assert max(line["at"] for line in entered) - killed["at"] < 1.0
    (dead,) = events_of(tmp_path, 1)
    assert (dead["event"], dead["rank"], dead["node"], dead["signal"]) == ("rank_dead", victim, f"node{victim}", 9)
    assert (dead["step"], dead["attempt"]) == (5, 1)
    (restart,) = events_of(tmp_path, 2)
    assert (restart["event"], restart["resumed_step"]) == ("restart", second[0] - 1)
    assert 0.0 < restart["seconds"] < 1.0


def test_gang_killed_again_and_again_goes_on_while_it_progresses(tmp_path: Path) -> None:
    faults = [fault("SIGKILL", rank=step % 2, step=step, attempts=(step - 1,)) for step in range(2, 7)]
    assert run_in_threads(make_spec(tmp_path, 8, faults), 2) == [Outcome("finished", 6, 8, 5)] * 2


@pytest.mark.parametrize(
    ("victim", "phase", "limit", "seconds"),
    [(0, "forward", 1.0, 1.0), (1, "collective", 2.0, 2.0), (1, "eval", 1.0, 1.0), (0, "forward", "auto", 5.0)],
)
def test_gang_stopped_rank_is_named_and_replaced_within_twice_the_limit(
    tmp_path: Path, victim: int, phase: str, limit: float | str, seconds: float
) -> None:
    """The others wait for it, and are not named. By itself the limit of such short steps is 5 s."""
    spec = make_spec(tmp_path, 10, [fault("SIGSTOP", rank=victim, phase=phase)], eval_interval=5, hang_seconds=limit)
    assert run_in_threads(spec, 3) == [Outcome("finished", 2, 10, 1)] * 3
    (stopped,) = read_lines(tmp_path / "faults.jsonl")
    entered = [line["at"] for line in read_lines(tmp_path / "entered.jsonl") if line["attempt"] == 2]
    assert max(entered) - stopped["at"] < 2 * seconds
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["node"], dead["step"]) == (victim, f"node{victim}", 5)
    assert (dead["kind"], dead["phase"]) == ("hang", phase)
    assert dead["reason"].startswith(f"stopped or starved (liveness {seconds:.0f}.")
    assert seconds - 0.2 <= dead["detected_seconds"] < 2 * seconds  # a beat may be younger than the liveness


def test_gang_two_that_are_stopped_at_once_are_replaced_and_one_of_them_is_named(tmp_path: Path) -> None:
    faults = [fault("SIGSTOP", rank=rank) for rank in (1, 2)]
    spec = make_spec(tmp_path, 10, faults, hang_seconds=1.0)
    assert run_in_threads(spec, 4) == [Outcome("finished", 2, 10, 1)] * 4
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"] in (1, 2), dead["kind"], dead["phase"]) == (True, "hang", "forward")


@pytest.mark.parametrize("behind", [0, 1])
def test_gang_standstill_names_the_rank_that_the_others_wait_for(tmp_path: Path, behind: int) -> None:
    """Its threads live, as do theirs, and all of them stand still."""
    spec = make_spec(tmp_path, 10, [fault("wait", rank=behind)], hang_seconds=1.5)
    assert run_in_threads(spec, 3) == [Outcome("finished", 2, 10, 1)] * 3
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["kind"], dead["step"], dead["phase"]) == (behind, "hang", 5, "forward")
    assert dead["reason"].startswith("no progress for 2.")
    assert 2.25 < dead["detected_seconds"] < 2 * 1.5


def test_gang_wait_for_storage_is_borne_longer_than_a_wait_for_nothing(tmp_path: Path) -> None:
    """Rank 1 waits for its data; rank 0, which waits for rank 1, is not taken for dead by its own limit of 1.5 s."""
    spec = make_spec(tmp_path, 10, [fault("wait", phase="data")], hang_seconds=1.0, progress_seconds=4.0)
    assert run_in_threads(spec, 2) == [Outcome("finished", 2, 10, 1)] * 2
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["phase"]) == (1, "data")
    assert dead["reason"].startswith("no progress for 4.")


def test_gang_out_of_memory_as_exception_says_what_helps(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 10, [fault("use_up_memory")])
    assert run_in_threads(spec, 2) == [Outcome("finished", 2, 10, 1)] * 2
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["reason"]) == (1, f"MemoryError: ; {ADVICE}")


def test_gang_rank_killed_by_the_kernel_for_memory_is_diagnosed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's counter is read before the fork and after the death; here it counts the fault."""

    def read_kills() -> MemoryKills:
        return MemoryKills(len(read_lines(tmp_path / "faults.jsonl")), None)

    monkeypatch.setattr(out_of_memory, "read_kills", read_kills)
    spec = make_spec(tmp_path, 10, [fault("SIGKILL")])
    assert run_in_threads(spec, 2) == [Outcome("finished", 2, 10, 1)] * 2
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["kind"], dead["signal"], dead["step"]) == (1, "memory", 9, 5)
    assert re.match(r"killed by the kernel for want of memory; its peak was \d+ MiB of \d+ MiB", dead["reason"])
    assert ADVICE in dead["reason"]


def test_gang_snapshot_memory_of_the_caller_is_used(tmp_path: Path) -> None:
    fd = os.memfd_create("given")
    spec = make_spec(tmp_path, 2)
    spec.run_spec["remember"] = "here"
    assert supervise(spec, 0, 1, memory=RankMemory(os.dup(fd))) == Outcome("finished", 1, 2, 0)
    assert os.pread(fd, 100, 0) == b"here"
    os.close(fd)


def test_gang_goes_on_while_its_journal_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled = threading.Event()
    append = gang_journal._append

    def wait_and_append(path: Path, data: bytes) -> None:
        assert stalled.wait(DEADLINE_SECONDS)
        append(path, data)

    monkeypatch.setattr(gang_journal, "_append", wait_and_append)
    monkeypatch.setattr(gang_journal, "CLOSE_SECONDS", DEADLINE_SECONDS)
    spec = make_spec(tmp_path, 10, [fault("SIGKILL")])
    timer = threading.Timer(3 * PING_SECONDS + 0.5, stalled.set)
    timer.start()
    # The stall is longer than the silence by which a supervisor counts as lost.
    assert run_in_threads(replace(spec, ping_seconds=PING_SECONDS), 2) == [Outcome("finished", 2, 10, 1)] * 2
    timer.join()
    assert steps_of(tmp_path, 2)[-1] == 10


def test_gang_exception_once_is_borne(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 10, [fault("raise")])
    assert run_in_threads(spec, 2) == [Outcome("finished", 2, 10, 1)] * 2
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["reason"]) == (1, "RuntimeError: the mill broke at step 5")


def test_gang_same_exception_twice_fails_everywhere_with_its_traceback(tmp_path: Path) -> None:
    found = diagnoses(make_spec(tmp_path, 10, [fault("raise", attempts=(1, 2, 3))]))
    assert found[0] == found[1]
    assert (found[0].kind, found[0].final, found[0].attempt) == ("program", True, 2)
    text = found[0].text()
    assert "the same exception twice at the same step: RuntimeError: the mill broke at step 5" in text
    assert "(rank 1 on node1, attempt 2, at step 5)" in text
    assert 'raise RuntimeError(f"the mill broke at step {step}")' in text


def test_gang_without_a_step_gives_up_after_three_attempts(tmp_path: Path) -> None:
    found = diagnoses(make_spec(tmp_path, 10, [fault("SIGKILL", step=1, attempts=(1, 2, 3, 4))]))
    assert (found[0].kind, found[0].attempt) == ("no_progress", 3)


def test_gang_wrong_input_fails_with_the_ranks_message(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 10, [fault("return", code=2, say="train.lr: must be > 0")])
    found = diagnoses(spec)
    assert [(one.kind, one.final, one.reason) for one in found] == [("input", True, "train.lr: must be > 0")] * 2


def test_gang_all_ranks_stopped_on_request_says_stopped(tmp_path: Path) -> None:
    faults = [fault("return", rank=rank, code=3) for rank in (0, 1)]
    assert run_in_threads(make_spec(tmp_path, 10, faults), 2) == [Outcome("stopped", 1, 4, 0)] * 2


def test_gang_preload_failure_is_final_and_told_everywhere(tmp_path: Path) -> None:
    found = diagnoses(make_spec(tmp_path, 10, env={"FAKE_PRELOAD": "raise"}))
    assert (found[0].kind, found[0].final) == ("program", True)
    assert "ImportError: no module named 'wheel_of_the_mill'" in found[1].text()
    assert "fake_rank.py" in found[1].text()


def test_gang_zygote_killed_is_made_anew(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 10, [fault("kill_zygote")])
    assert run_in_threads(spec, 2) == [Outcome("finished", 2, 10, 1)] * 2
    (dead,) = events_of(tmp_path, 1)
    assert (dead["rank"], dead["reason"]) == (1, "the zygote ended with status -9")


def test_gang_supervisor_that_never_comes_is_an_infrastructure_failure(tmp_path: Path) -> None:
    with pytest.raises(GangFailed, match=r"no word from the supervisors of ranks: \[1\]") as caught:
        supervise(make_spec(tmp_path, 10, start_seconds=0.5), 0, 2)
    assert not caught.value.diagnosis.final


def test_supervise_coordinator_that_is_away_is_an_infrastructure_failure(tmp_path: Path) -> None:
    with pytest.raises(GangFailed, match="no connection to the coordinator") as caught:
        supervise(make_spec(tmp_path, 10), 1, 2, ("127.0.0.1", 9))
    assert not caught.value.diagnosis.final


@pytest.fixture
def start() -> Iterator[Start]:
    started = []

    def run(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(start_process(*arguments, **more))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def pidfds(out_dir: Path, rank: int) -> list[int]:
    """Of the rank and of its zygote."""
    (pid,) = [line["pid"] for line in read_lines(out_dir / "entered.jsonl") if line["rank"] == rank]
    zygote_pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [os.pidfd_open(pid), os.pidfd_open(zygote_pid)]


def is_running(out_dir: Path) -> bool:
    path = journal_path(out_dir, 1)
    return path.exists() and path.stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_gang_supervisor_killed_takes_its_rank_and_the_gang(tmp_path: Path, start: Start, victim: int) -> None:
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01)
    supervisors = [start(spec, rank, 2) for rank in (0, 1)]
    wait_until(lambda: is_running(tmp_path))
    own, others = pidfds(tmp_path, victim), pidfds(tmp_path, 1 - victim)
    supervisors[victim].send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 2.0
    assert all(processes.is_over(fd, max(0.0, deadline - time.monotonic())) for fd in own)
    supervisors[1 - victim].wait(5.0)
    assert all(processes.is_over(fd, 1.0) for fd in others)
    (end,) = read_lines(tmp_path / f"end-{1 - victim}.json")
    assert (end["status"], end["kind"]) == ("failed", "infrastructure")
    lost = "lost the supervisor of rank 1 on node1" if victim == 1 else "lost the coordinator"
    assert lost in end["text"]


@pytest.mark.slow
def test_gang_raylet_killed_ends_the_rank_at_once(tmp_path: Path, start: Start) -> None:
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01)
    with subprocess.Popen(["sleep", "100"]) as raylet:
        supervisors = [start(spec, 0, 2), start(spec, 1, 2, raylet_pid=raylet.pid)]
        wait_until(lambda: is_running(tmp_path))
        own = pidfds(tmp_path, 1)
        raylet.kill()
        assert all(processes.is_over(fd, 1.0) for fd in own)
    for supervisor in supervisors:
        supervisor.wait(5.0)
    ends = [read_lines(tmp_path / f"end-{rank}.json")[0] for rank in (0, 1)]
    assert [(end["kind"], "the raylet of node1 died" in end["text"]) for end in ends] == [("infrastructure", True)] * 2


@pytest.mark.slow
def test_gang_supervisor_stopped_is_lost_by_its_silence(tmp_path: Path, start: Start) -> None:
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01, ping_seconds=0.2)
    supervisors = [start(spec, rank, 2) for rank in (0, 1)]
    wait_until(lambda: is_running(tmp_path))
    supervisors[1].send_signal(signal.SIGSTOP)
    supervisors[0].wait(5.0)
    (end,) = read_lines(tmp_path / "end-0.json")
    assert "lost the supervisor of rank 1 on node1: silent for 0." in end["text"]
