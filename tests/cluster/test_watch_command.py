"""`headrace watch`: what it reads, and when it ends."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.watch import follow
from cluster.watch_source import WatchSource
from data_shards.storage import open_folder
from monitoring.runs import create_run_folder
from monitoring.watch import Watched
from tests.monitoring.journals import START_TIME, end, start, step, write_journal


def make_run(runs_dir: Path) -> Path:
    run = create_run_folder(runs_dir / "demo", "id-1", "demo", "")
    write_journal(run.out_dir, start(nodes=["mill", "mill"]), *[step(i) for i in range(1, 6)])
    return run.out_dir


def test_watch_once_prints_one_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["watch", "id-1", "--runs-dir", str(tmp_path), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {len(line) for line in lines} == {80}
    assert "demo (id-1): failed its driver ended without a word" in lines[1]
    assert any("step 5 of 10" in line for line in lines)


def test_watch_unknown_run_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "absent", "--runs-dir", str(tmp_path)]) == 2
    assert "must be a run's name, folder or id" in capsys.readouterr().err


def test_watch_source_in_an_object_store_reads_on_as_the_journal_grows(tmp_path: Path) -> None:
    out_dir = make_run(tmp_path)
    address = f"memory://{uuid.uuid4().hex}/demo"
    remote = open_folder(address)

    def upload() -> None:
        for path in (out_dir / "run.json", *(out_dir / "journal").glob("*.jsonl")):
            remote.write(path.relative_to(out_dir).as_posix(), path.read_bytes())

    upload()
    with WatchSource(address, None, clock=lambda: START_TIME + 1006.0) as source:
        first = source.read()
        assert (first.status.state, first.status.step, first.nodes) == ("running", 5, (("mill", 2),))
        assert first.status.detail == "by a driver elsewhere"
        write_journal(out_dir, step(6), end(6))
        upload()
        second = source.read()
    assert (second.status.state, second.status.step) == ("finished", 6)


def test_follow_reads_until_the_run_is_at_rest(tmp_path: Path) -> None:
    out_dir = make_run(tmp_path)
    with WatchSource(str(out_dir), None) as source:
        at_rest = source.read()
    running = replace(at_rest, status=replace(at_rest.status, state="running"))
    frames: Iterator[Watched] = iter([running, running, at_rest])
    shown: list[str] = []
    waits: list[float] = []
    follow(lambda: next(frames), lambda run: shown.append(run.status.state), waits.append, 0.5)
    assert shown == ["running", "running", "failed"]
    assert waits == [0.5, 0.5]
