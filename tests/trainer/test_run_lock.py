from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import trainer.run_lock
from trainer.errors import TrainError
from trainer.run_lock import LEASE_FILE, Lease, _write_lease, read_lease, run_lock


def test_lock_held_refuses_a_second_driver_naming_the_firsts_host_process_and_start(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        lease = read_lease(tmp_path / "run")
        assert lease is not None
        expected = rf"one driver at a time.*process {os.getpid()} on {lease.host} since {lease.started}"
        with pytest.raises(TrainError, match=expected), run_lock(tmp_path / "run"):
            pass


def test_lock_released_lets_the_next_driver_in(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()
        assert read_lease(tmp_path / "run") is None


@contextmanager
def lease_of_another_machine(out_dir: Path, beats: bool) -> Iterator[None]:
    """As if a driver elsewhere held the run, where the kernel's lock does not reach."""
    ended, count = threading.Event(), 0

    def write() -> None:
        text = json.dumps({"host": "elsewhere", "pid": 7, "started": "2026-01-02 03:04:05 UTC", "beats": count})
        (out_dir / "draft").write_text(text)
        (out_dir / "draft").replace(out_dir / LEASE_FILE)

    def beat() -> None:
        nonlocal count
        while not ended.wait(0.05):
            count += 1
            write()

    write()
    thread = threading.Thread(target=beat)
    if beats:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if beats:
            thread.join()


def test_lease_of_another_machine_that_is_kept_up_refuses_the_second_driver(tmp_path: Path) -> None:
    with lease_of_another_machine(tmp_path, beats=True):
        expected = "process 7 on elsewhere since 2026-01-02 03:04:05 UTC"
        with pytest.raises(TrainError, match=expected), run_lock(tmp_path):
            pass


def test_lease_of_another_machine_that_is_dead_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.run_lock, "WATCH_SECONDS", 0.5)
    monkeypatch.setattr(trainer.run_lock, "POLL_SECONDS", 0.1)
    with lease_of_another_machine(tmp_path, beats=False), run_lock(tmp_path):
        lease = read_lease(tmp_path)
        assert lease is not None
        assert lease.pid == os.getpid()


def test_lease_is_written_anew_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.run_lock, "BEAT_SECONDS", 0.01)
    with run_lock(tmp_path):
        for _ in range(2000):
            lease = read_lease(tmp_path)
            if lease is not None and lease.beats >= 2:
                break
            threading.Event().wait(0.01)
        assert lease is not None
        assert lease.beats >= 2


def test_lease_that_cannot_be_written_is_told_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = Lease("here", 1, "now")
    assert not _write_lease(tmp_path / "gone", lease, is_well=True)
    assert not _write_lease(tmp_path / "gone", lease, is_well=False)
    assert len([record for record in caplog.records if "cannot be written now" in record.message]) == 1
    assert _write_lease(tmp_path, lease, is_well=False)
    assert read_lease(tmp_path) == lease
