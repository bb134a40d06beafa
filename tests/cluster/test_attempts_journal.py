import json
import os
from pathlib import Path

import pytest

from cluster.gang_journal import JournalPipe, append_event, journal_path
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


def test_journal_pipe_appends_whole_lines_and_drops_a_torn_one(tmp_path: Path) -> None:
    journal = JournalPipe(tmp_path, 3)
    path = journal_path(tmp_path, 3)
    os.write(journal.write_fd, b'{"step": 1}\n{"st')
    assert journal.transfer()
    assert path.read_bytes() == b'{"step": 1}\n'
    os.write(journal.write_fd, b'ep": 2}\n{"step"')
    append_event(tmp_path, 3, "rank_dead", rank=1)
    os.close(journal.write_fd)
    assert not journal.transfer()
    journal.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record.get("step", record.get("event")) for record in records] == [1, "rank_dead", 2]
    assert (records[1]["attempt"], records[1]["rank"]) == (3, 1)


def test_journal_pipe_full_never_blocks_the_rank(tmp_path: Path) -> None:
    journal = JournalPipe(tmp_path, 1)
    line = b"x" * 999 + b"\n"
    written = 0
    with pytest.raises(BlockingIOError):
        while True:
            written += os.write(journal.write_fd, line)
    os.close(journal.write_fd)
    journal.close()
    assert written >= 1_000_000
    assert journal_path(tmp_path, 1).stat().st_size == written - written % 1000
