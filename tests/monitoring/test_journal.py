"""The journal: encoding, writers, readers."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.errors import MonitoringError
from monitoring.journal import (
    FileJournal,
    JournalReader,
    PipeJournal,
    attempt_path,
    attempt_paths,
    encode,
    last_values,
    number,
    read_records,
    records_between,
)
from tests.monitoring.journals import start, step, write_journal


def test_encode_nan_and_infinity_become_null_and_come_back() -> None:
    line = encode({"step": 1, "loss": math.nan, "grad_norm": -math.inf, "lr": 0.5, "nested": [math.inf, 1]})
    record = json.loads(line)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert (record["loss"], record["loss_hex"], record["grad_norm"]) == (None, "nan", None)
    assert record["nested"] == [None, 1]
    assert math.isnan(number(record, "loss") or 0)
    assert number(record, "grad_norm") == -math.inf
    assert number(record, "lr") == 0.5
    assert number(record, "absent") is None


def test_encode_text_with_line_ends_stays_one_line() -> None:
    record = {"event": "eval", "samples": [{"text": "a\nb\u2028\x85三\r"}]}
    assert encode(record).count(b"\n") == 1
    assert json.loads(encode(record)) == record


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_encode_floats_come_back_to_the_last_bit(value: float) -> None:
    assert json.loads(encode({"loss": value}))["loss"].hex() == value.hex()


def test_file_journal_torn_line_of_a_dead_writer_is_dropped(tmp_path: Path) -> None:
    path = attempt_path(tmp_path, 1)
    write_journal(tmp_path, start(), step(1))
    whole = path.read_bytes()
    path.write_bytes(whole + encode(step(2))[:-5])
    write_journal(tmp_path, step(3))
    assert [record.get("step") for record in read_records(tmp_path)] == [None, 1, 3]
    assert path.read_bytes().startswith(whole)


def test_file_journal_torn_line_longer_than_the_search_block_is_dropped(tmp_path: Path) -> None:
    path = attempt_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_bytes(b'{"a": 1}\n' + b"x" * 200_000)
    FileJournal(path).close()
    assert path.read_bytes() == b'{"a": 1}\n'
    path.write_bytes(b"y" * 200_000)
    FileJournal(path).close()
    assert path.read_bytes() == b""


def test_file_journal_full_disk_keeps_what_it_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = FileJournal(attempt_path(tmp_path, 1))
    room, write = [30, None, 100, None, None], os.write

    def into_little_room(fd: int, data: bytearray) -> int:
        size = room.pop(0) if room else len(data)
        if size is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:size])

    monkeypatch.setattr("monitoring.journal.os.write", into_little_room)
    for number_of_step in range(1, 6):
        journal.write(step(number_of_step))
    journal.close()
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3, 4, 5]
    assert [record.message.count("No space left on device") for record in caplog.records] == [1]


@given(cut=st.integers(min_value=0, max_value=400))
@settings(max_examples=60, deadline=None)
def test_read_records_file_cut_anywhere_gives_the_whole_lines_before(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    out_dir = tmp_path_factory.mktemp("run")
    path = attempt_path(out_dir, 1)
    lines = [encode({"step": i, "attempt": 1, "time": 1.0, "text": "三" * i}) for i in range(1, 6)]
    path.parent.mkdir()
    path.write_bytes(b"".join(lines)[:cut])
    whole = path.read_bytes().count(b"\n")
    assert [record["step"] for record in read_records(out_dir)] == list(range(1, whole + 1))


def test_read_records_broken_line_in_the_middle_names_file_and_line(tmp_path: Path) -> None:
    write_journal(tmp_path, start(), step(1))
    path = attempt_path(tmp_path, 1)
    path.write_bytes(path.read_bytes() + b"{broken\n" + encode(step(2)))
    with pytest.raises(MonitoringError, match=r"attempt-0001\.jsonl, line 3: .*must be a JSON object.*broken"):
        list(read_records(tmp_path))


def test_read_records_line_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = attempt_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_bytes(b"[1]\n")
    with pytest.raises(MonitoringError, match=r"line 1: .*a list"):
        list(read_records(tmp_path))


def test_attempt_paths_order_is_by_number_and_other_files_are_left_out(tmp_path: Path) -> None:
    for attempt in (10_000, 2, 9_999):
        write_journal(tmp_path, step(1, attempt))
    (tmp_path / "journal" / "sent.json").write_text("{}")
    (tmp_path / "journal" / ".attempt-0001.jsonl.tmp").write_text("{")
    names = [path.name for path in attempt_paths(tmp_path)]
    assert names == ["attempt-0002.jsonl", "attempt-9999.jsonl", "attempt-10000.jsonl"]


def test_journal_reader_no_folder_gives_nothing(tmp_path: Path) -> None:
    assert JournalReader(tmp_path).poll() == []


@given(
    writes=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    limit=st.one_of(st.none(), st.integers(1, 300)),
)
@settings(max_examples=60, deadline=None)
def test_journal_reader_interleaved_attempts_in_torn_pieces_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, bool]], limit: int | None
) -> None:
    """Attempts are written in turn, each line in two pieces with a poll between; readers are renewed at will."""
    out_dir = tmp_path_factory.mktemp("run")
    (out_dir / "journal").mkdir()
    reader, seen = JournalReader(out_dir), []
    for index, (attempt, cut, renew) in enumerate(writes):
        line = encode({"step": index, "attempt": attempt, "time": 0.0})
        for piece in (line[:cut], line[cut:]):
            with attempt_path(out_dir, attempt).open("ab") as file:
                file.write(piece)
            seen += reader.poll(limit)
        if renew:
            reader = JournalReader(out_dir, reader.positions)
    while records := reader.poll(limit):
        seen += records
    assert sorted(record["step"] for record in seen) == list(range(len(writes)))
    for attempt in (1, 2, 3):
        order = [record["step"] for record in seen if record["attempt"] == attempt]
        assert order == sorted(order)


def test_journal_reader_limit_returns_about_that_much_and_goes_on(tmp_path: Path) -> None:
    write_journal(tmp_path, *[step(i) for i in range(1, 101)])
    reader = JournalReader(tmp_path)
    first = reader.poll(limit_bytes=1000)
    assert 1 <= len(first) < 10
    assert len(first) + len(reader.poll()) == 100


def test_records_between_positions_gives_what_was_polled_between(tmp_path: Path) -> None:
    write_journal(tmp_path, step(1), step(2), step(3, 2))
    reader = JournalReader(tmp_path)
    reader.poll()
    before = reader.positions
    write_journal(tmp_path, step(4), step(5, 2), step(6, 3))
    polled, after = reader.poll(), reader.positions
    write_journal(tmp_path, step(7), step(8, 4))
    assert list(records_between(tmp_path, before, after)) == polled
    assert [record["step"] for record in polled] == [4, 5, 6]


def test_last_values_step_run_by_two_attempts_in_any_order() -> None:
    records = [step(3, 2, loss=2.5), step(1, 1), step(3, 1, loss=1.5), step(2, 1), start(2, 2), step(3, 2, loss=3.5)]
    assert list(last_values(records)) == [1, 2, 3]
    assert last_values(records)[3]["loss"] == 3.5


def test_pipe_journal_full_pipe_does_not_block_and_nothing_is_lost() -> None:
    read_end, write_end = os.pipe()
    journal = PipeJournal(write_end)
    records = [step(i) for i in range(2000)]  # 600 kB into a pipe of 64 kB that nobody reads
    for record in records[:-1]:
        journal.write(record)
    received = os.read(read_end, 1 << 20)
    journal.write(records[-1])
    os.set_blocking(read_end, False)
    while not received.endswith(encode(records[-1])):
        received += _read_some(read_end)
        journal._send()
    assert journal.close() is True
    os.close(read_end)
    assert received == b"".join(map(encode, records))


def test_pipe_journal_close_drains_while_the_reader_reads() -> None:
    read_end, write_end = os.pipe()
    with subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.buffer.read()))"],
                          stdin=read_end, stdout=subprocess.PIPE) as reader:  # fmt: skip
        os.close(read_end)
        journal = PipeJournal(write_end)
        for i in range(2000):
            journal.write(step(i))
        assert journal.close(deadline_seconds=20) is True
        assert reader.stdout is not None
        assert int(reader.stdout.read()) == sum(len(encode(step(i))) for i in range(2000))


def test_pipe_journal_close_reader_that_does_not_read_ends_at_the_deadline() -> None:
    read_end, write_end = os.pipe()
    journal = PipeJournal(write_end)
    for i in range(1000):
        journal.write(step(i))
    assert journal.close(deadline_seconds=0.05) is False
    os.close(read_end)


def test_pipe_journal_reader_gone_raises() -> None:
    read_end, write_end = os.pipe()
    journal = PipeJournal(write_end)
    os.close(read_end)
    with pytest.raises(BrokenPipeError):
        journal.write(step(1))
    os.close(write_end)


def test_journal_module_imports_nothing_heavy() -> None:
    code = "import sys, monitoring.journal; print(sorted({'torch', 'mlflow', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""
