import json
import os
import threading
import time
from pathlib import Path

import pytest

from cluster import gang_journal
from cluster.gang_journal import GangJournal, journal_path
from cluster.policy import Death
from tests.cluster.gang_process import DEADLINE_SECONDS, read_lines, wait_until
from trainer.attempts import newest_attempt, take_attempt


def test_take_attempt_counts_from_one_and_says_who(tmp_path: Path) -> None:
    assert newest_attempt(tmp_path) == 0
    assert [take_attempt(tmp_path), take_attempt(tmp_path)] == [1, 2]
    assert newest_attempt(tmp_path) == 2
    assert json.loads((tmp_path / "attempts" / "0002.json").read_text())["pid"] == os.getpid()


def test_take_attempt_that_another_took_meanwhile_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_attempt(tmp_path)
    monkeypatch.setattr("trainer.attempts.newest_attempt", lambda _: 0)
    assert take_attempt(tmp_path) == 2


def test_journal_passes_whole_lines_on_and_drops_a_torn_one(tmp_path: Path) -> None:
    journal = GangJournal(tmp_path)
    pipe, path = journal.open_pipe(3), journal_path(tmp_path, 3)
    os.write(pipe.write_fd, b'{"step": 1}\n{"st')
    assert pipe.transfer()
    os.write(pipe.write_fd, b'ep": 2}\n{"step"')
    journal.event(3, "rank_dead", rank=1)
    os.close(pipe.write_fd)
    assert not pipe.transfer()
    journal.close()
    records = read_lines(path)
    assert [record.get("step", record.get("event")) for record in records] == [1, 2, "rank_dead"]
    assert (records[2]["attempt"], records[2]["rank"]) == (3, 1)


def test_journal_pipe_full_never_blocks_the_rank(tmp_path: Path) -> None:
    journal = GangJournal(tmp_path)
    pipe = journal.open_pipe(1)
    line = b"x" * 999 + b"\n"
    written = 0
    with pytest.raises(BlockingIOError):
        while True:
            written += os.write(pipe.write_fd, line)
    os.close(pipe.write_fd)
    journal.close()
    assert written >= 1_000_000
    assert journal_path(tmp_path, 1).stat().st_size == written - written % 1000


def test_journal_torn_line_of_a_dead_writer_swallows_nothing(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    journal = GangJournal(tmp_path)
    journal.event(1, "end")
    journal.close()
    assert [record.get("event", record.get("step")) for record in read_lines(path)] == [1, "end"]


def test_journal_that_cannot_be_written_keeps_its_lines_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang_journal, "RETRY_SECONDS", 0.05)
    (tmp_path / "journal").write_text("in the way")
    journal = GangJournal(tmp_path)
    for step in (1, 2):
        journal.event(1, "checkpoint", step=step)
    (tmp_path / "journal").unlink()
    wait_until(lambda: len(read_lines(journal_path(tmp_path, 1))) == 2)
    assert [record["step"] for record in read_lines(journal_path(tmp_path, 1))] == [1, 2]
    journal.close()


def test_journal_full_disk_leaves_no_torn_line_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang_journal, "RETRY_SECONDS", 0.05)
    full, write = [True], os.write

    def short_write(fd: int, data: bytes) -> int:
        if full and len(data) > 50:
            return write(fd, data[:30])
        if full:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(gang_journal.os, "write", short_write)
    journal, path = GangJournal(tmp_path), journal_path(tmp_path, 1)
    journal.event(1, "checkpoint", path="x" * 20)
    wait_until(lambda: path.exists() and path.stat().st_size == 0)
    full.clear()
    wait_until(lambda: path.stat().st_size > 0)
    journal.close()
    assert [record["event"] for record in read_lines(path)] == ["checkpoint"]


def test_journal_stalled_storage_holds_up_neither_events_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = threading.Event()
    monkeypatch.setattr(gang_journal, "_append", lambda path, data: stalled.wait(DEADLINE_SECONDS))
    monkeypatch.setattr(gang_journal, "CLOSE_SECONDS", 0.1)
    journal = GangJournal(tmp_path)
    began = time.monotonic()
    journal.event(1, "end")
    journal.close()
    assert time.monotonic() - began < 2.0
    stalled.set()


def test_journal_death_says_what_is_known(tmp_path: Path) -> None:
    journal = GangJournal(tmp_path)
    told = {"rank": 1, "node": "mill", "kind": "signal", "reason": "killed", "step": 4, "phase": "forward"}
    journal.death(2, Death(**told, signal=9, detected_seconds=0.25))
    journal.close()
    [record] = read_lines(journal_path(tmp_path, 2))
    del record["time"]
    assert record == {"event": "rank_dead", "attempt": 2, **told, "signal": 9, "detected_seconds": 0.25}


def test_journal_pipe_of_a_fenced_attempt_is_discarded(tmp_path: Path) -> None:
    journal = GangJournal(tmp_path)
    pipe = journal.open_pipe(1)
    os.write(pipe.write_fd, b'{"step": 1}\n')
    pipe.discard()
    journal.event(1, "fenced", newest=2)
    os.close(pipe.write_fd)
    journal.close()
    assert [record["event"] for record in read_lines(journal_path(tmp_path, 1))] == ["fenced"]
