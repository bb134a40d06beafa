"""Journals read as columns, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.columns import Columns, columns_of
from monitoring.errors import MonitoringError
from monitoring.journal import attempt_path, read_records
from monitoring.journal_columns import read_columns, read_journal
from tests.monitoring.journals import end, evaluation, start, step, write_journal


def assert_as_read(found: Columns, out_dir: Path) -> None:
    wanted = columns_of(read_records(out_dir))
    assert found.steps.tobytes() == wanted.steps.tobytes()  # to the last bit, NaN included
    assert (found.events, found.event_lines) == (wanted.events, wanted.event_lines)


def kept(out_dir: Path) -> Path:
    return out_dir / "journal/columns.bin"


def long_run(steps: int = 400) -> list[dict[str, object]]:
    sample = evaluation(3, 6.0, samples=[{"prompt": '"event": ', "text": '{"event": "x"}'}], event="eval")
    return [start(params={"event": 1}), *[step(i) for i in range(1, steps + 1)], sample]


def test_read_columns_are_those_of_the_records(tmp_path: Path) -> None:
    write_journal(tmp_path, *long_run(20), step(21, loss=None, loss_hex="inf"), start(2, 5), step(6, 2), end(6, 2))
    assert_as_read(read_columns(tmp_path), tmp_path)
    assert not kept(tmp_path).exists()  # it would save nothing


def test_read_columns_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    write_journal(tmp_path, *long_run())
    assert_as_read(read_columns(tmp_path), tmp_path)
    size = kept(tmp_path).stat().st_size
    write_journal(tmp_path, step(401), evaluation(401, 5.0), start(2, 390), step(391, 2))
    assert_as_read(read_columns(tmp_path), tmp_path)
    assert kept(tmp_path).stat().st_size == size  # a few lines are parsed sooner than written
    write_journal(tmp_path, *[step(i, 2) for i in range(392, 800)])
    assert_as_read(read_columns(tmp_path), tmp_path)
    assert kept(tmp_path).stat().st_size > size
    assert_as_read(read_columns(tmp_path), tmp_path)


@pytest.mark.parametrize("harm", ["torn", "garbage", "journal changed", "journal shorter", "journal gone"])
def test_read_columns_does_not_believe_what_does_not_fit(tmp_path: Path, harm: str) -> None:
    write_journal(tmp_path, *long_run())
    read_columns(tmp_path)
    journal = attempt_path(tmp_path, 1)
    match harm:
        case "torn":
            kept(tmp_path).write_bytes(kept(tmp_path).read_bytes()[:-100])
        case "garbage":
            kept(tmp_path).write_bytes(b"garbage\n")
        case "journal changed":
            journal.write_bytes(journal.read_bytes().replace(b'"prompt"', b'"PROMPT"'))
        case "journal shorter":
            journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:50]))
        case "journal gone":
            journal.unlink()
            write_journal(tmp_path, start(2), step(1, 2))
    assert_as_read(read_columns(tmp_path), tmp_path)


def test_read_columns_torn_last_line_is_left_for_later(tmp_path: Path) -> None:
    write_journal(tmp_path, start(), step(1))
    path = attempt_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 2, "att')
    assert read_columns(tmp_path).steps["step"].tolist() == [1]


def test_read_columns_odd_lines_are_read_one_by_one_and_broken_ones_named(tmp_path: Path) -> None:
    write_journal(tmp_path, start(), step(1), step(2, mfu="none"), {"attempt": 1, "time": 1.0})
    assert_as_read(read_columns(tmp_path), tmp_path)
    with attempt_path(tmp_path, 1).open("ab") as file:
        file.write(b"[1]\n")
    with pytest.raises(MonitoringError, match=r"line 5: every line of a journal must be a JSON object"):
        read_columns(tmp_path)


def test_read_columns_record_without_event_and_step_keeps_its_place(tmp_path: Path) -> None:
    write_journal(tmp_path, start(), {"attempt": 1, "time": 1.0}, step(1))
    assert_as_read(read_columns(tmp_path), tmp_path)


def test_read_journal_refuses_a_run_without_one(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="must hold a journal"):
        read_journal(tmp_path)
