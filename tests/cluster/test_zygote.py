import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import processes
from cluster.gang_journal import GangJournal, journal_path
from cluster.rank_process import RankProcess
from cluster.spec import GangSpec
from cluster.zygote_client import ZygoteClient, ZygoteGoneError
from tests.cluster.gang_process import make_spec, read_lines, wait_until
from trainer.allocator import VARIABLE, keeping_memory


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(stack: ExitStack, spec: GangSpec) -> tuple[ZygoteClient, dict[str, Any]]:
    zygote = ZygoteClient(spec)
    stack.callback(zygote.close)
    return zygote, zygote.receive()


def fork(stack: ExitStack, zygote: ZygoteClient, spec: GangSpec, attempt: int = 1) -> RankProcess:
    """Fork rank 0 of 1, with all its descriptors."""
    journal = GangJournal(spec.out_path)
    pipe = journal.open_pipe(attempt)
    store = socket.create_server(("127.0.0.1", 0))
    place = {"rank": 0, "world_size": 1, "local_rank": 0, "attempt": attempt}
    rank_spec = {**spec.run_spec, **place, "store_host": "127.0.0.1", "store_port": store.getsockname()[1]}
    fds = {"journal": pipe.write_fd, "store": store.fileno()}
    process = RankProcess(zygote, spec, "mill", rank_spec, fds)
    os.close(pipe.write_fd)
    store.close()
    stack.callback(process.close)
    stack.callback(journal.close)
    return process


def fault(do: str, step: int = 2, **more: Any) -> list[dict[str, Any]]:
    return [{"rank": 0, "step": step, "attempts": [1], "do": do, **more}]


def test_zygote_forks_ranks_that_run_to_the_end(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 3)
    zygote, ready = start(stack, spec)
    assert ready["event"] == "ready"
    for attempt in (1, 2):
        (tmp_path / "checkpoint").unlink(missing_ok=True)
        with ExitStack() as one:
            process = fork(one, zygote, spec, attempt)
            end = zygote.receive()
            assert (end["event"], end["pid"], end["status"]) == ("exited", process.child.pid, 0)
            assert 1 << 20 < end["peak_bytes"] < 1 << 32
            assert process.pulse().done_step == 3
        assert [record["step"] for record in read_lines(journal_path(tmp_path, attempt))] == [1, 2, 3]


def test_zygote_fork_to_main_takes_milliseconds(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 1)
    zygote, _ = start(stack, spec)
    seconds = []
    for attempt in range(1, 6):
        began = time.monotonic()
        with ExitStack() as one:
            fork(one, zygote, spec, attempt)
            zygote.receive()
        seconds.append(read_lines(tmp_path / "entered.jsonl")[-1]["at"] - began)
    assert sorted(seconds)[2] < 0.1


@pytest.mark.parametrize("keeps_memory", [False, True])
def test_rank_keeps_what_it_frees_where_its_spec_says_so(
    stack: ExitStack, tmp_path: Path, keeps_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    # A title is written over the environment, unless it is told to leave that alone.
    spec = replace(make_spec(tmp_path, 10**9, pace_seconds=0.01), keeps_memory=keeps_memory, env={"SPT_NOENV": "1"})
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    shown = Path(f"/proc/{process.child.pid}/environ").read_bytes()
    wanted = f"{VARIABLE}={keeping_memory({})[VARIABLE]}".replace(":", "\0")  # as glibc parses it, in its place
    assert (wanted.encode() in shown) == keeps_memory


def test_zygote_and_rank_show_their_names(stack: ExitStack, tmp_path: Path) -> None:
    pytest.importorskip("setproctitle")
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01)
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    wait_until(lambda: process.pulse().done_step > 0)
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") for pid in (zygote.pid, process.child.pid)]
    assert titles == [b"headrace: zygote of mill", b"headrace: rank 0/1 of mill"]


def test_rank_exception_is_noted_with_its_traceback(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 3, fault("raise"))
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    wait_until(lambda: process.read_note() and process.death_by_note() is not None)
    # It waits, so that its peers are not told before its supervisor.
    assert not process.is_over()
    process.kill()
    assert not process.ended_by_itself(zygote.receive()["status"])
    death = process.death_by_note()
    assert death is not None
    assert (death.kind, death.exit_code, death.step) == ("exception", None, 2)
    assert (death.error_type, death.error_message) == ("RuntimeError", "the mill broke at step 2")
    assert death.last_lines[-1] == "RuntimeError: the mill broke at step 2"
    assert any("in _fail" in line for line in death.last_lines)
    assert "the mill broke at step 2" in (tmp_path / "logs" / "attempt-0001-rank-0.log").read_text()


def test_rank_killed_is_told_by_its_signal(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 3, fault("SIGSEGV"))
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    death = process.death_by_status(zygote.receive()["status"])
    assert (death.kind, death.signal, death.step, death.exit_code) == ("signal", 11, 2, None)
    assert any("Segmentation fault" in line for line in death.last_lines)


def test_rank_with_wrong_input_forwards_its_message(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 3, fault("return", code=2, say="train.lr: must be > 0"))
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    death = process.death_by_status(zygote.receive()["status"])
    assert (death.kind, death.reason) == ("input", "train.lr: must be > 0")


def test_rank_status_without_note_is_told_as_it_is(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 3, fault("return", code=7, say="last words"))
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    death = process.death_by_status(zygote.receive()["status"])
    assert (death.kind, death.reason, death.last_lines) == ("exit", "exit status 7", ("last words",))


@pytest.mark.parametrize(
    ("wish", "expected"),
    [("raise", "no module named 'wheel_of_the_mill'"), ("threads", "tests.cluster.fake_rank.preload() left 4 threads")],
)
def test_zygote_preload_failure_is_reported_in_full(stack: ExitStack, tmp_path: Path, wish: str, expected: str) -> None:
    zygote, packet = start(stack, make_spec(tmp_path, 1, env={"FAKE_PRELOAD": wish}))
    assert packet["event"] == "failed"
    assert expected in packet["message"]
    assert "fake_rank" in packet["traceback"]
    with pytest.raises(ZygoteGoneError, match="status 1"):
        zygote.receive()


def test_zygote_missing_entry_is_reported(stack: ExitStack, tmp_path: Path) -> None:
    _, packet = start(stack, replace(make_spec(tmp_path, 1), entry="no.such.entry"))
    assert (packet["type"], packet["message"]) == ("ModuleNotFoundError", "No module named 'no'")


def test_zygote_whose_supervisor_is_gone_ends_its_ranks(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01)
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    zygote_fd = os.pidfd_open(zygote.pid)
    stack.callback(os.close, zygote_fd)
    wait_until(lambda: process.pulse().done_step > 0)
    # The parent lives on, so the kernel's signal does not come: the end of the control socket must do.
    with socket.socket(fileno=os.dup(zygote.fileno())) as control:
        control.shutdown(socket.SHUT_WR)
    assert processes.is_over(zygote_fd, 2.0)
    assert process.is_over(2.0)


def test_zygote_killed_takes_its_rank_along(stack: ExitStack, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 10**9, pace_seconds=0.01)
    zygote, _ = start(stack, spec)
    process = fork(stack, zygote, spec)
    wait_until(lambda: process.pulse().done_step > 0)
    os.kill(zygote.pid, 9)
    assert process.is_over(2.0)
    with pytest.raises(ZygoteGoneError, match="status -9"):
        zygote.receive()
