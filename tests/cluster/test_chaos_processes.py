"""How the injector finds processes and damages checkpoints."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.chaos.damage import damage_newest
from cluster.chaos.process_table import (
    GoneWatch,
    RunProcess,
    descendants,
    processes_of,
    read_parents,
    read_titles,
    send,
)
from tests.end_to_end.headrace import wait_until

SLEEPER = "import setproctitle, sys; setproctitle.setproctitle(sys.argv[1]); print(flush=True); sys.stdin.read()"


def test_processes_are_found_by_their_whole_title() -> None:
    titles = {
        7: "headrace: rank 1/2 of demo",
        8: "headrace: rank 0/2 of demo-2",
        9: "headrace: supervisor 12 of demo",
        10: "headrace: zygote of demo",
        11: "grep headrace: zygote of demo",
        12: "headrace: sender of demo",
    }
    assert processes_of("demo", titles) == [
        RunProcess(7, "rank", 1),
        RunProcess(9, "supervisor", 12),
        RunProcess(10, "zygote", None),
        RunProcess(12, "sender", None),
    ]
    assert processes_of("demo.2", {8: titles[8]}) == []


def test_descendants_are_all_that_lie_below() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5}
    assert descendants([2], parents) == {3, 4}
    assert descendants([2, 5], parents) == {3, 4, 6}
    assert descendants([4], parents) == set()


def test_process_that_runs_is_found_signalled_and_seen_to_end(tmp_path: Path) -> None:
    name = tmp_path.name
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, f"headrace: rank 0/1 of {name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes_of(name, read_titles()) == [RunProcess(process.pid, "rank", 0)]
        assert process.pid in descendants([read_parents()[process.pid]], read_parents())
        watch = GoneWatch([process.pid])
        assert not watch.is_over()
        assert send([process.pid], signal.SIGKILL) == 1
        wait_until(watch.is_over, "its end", 10)
        watch.close()
        assert processes_of(name, read_titles()) == []  # though it is not reaped
    finally:
        process.kill()
        process.wait()
    assert send([process.pid], signal.SIGCONT) == 0
    with_nobody = GoneWatch([process.pid])
    assert with_nobody.is_over()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run's folder with two checkpoints."""
    for step in (5, 10):
        folder = tmp_path / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        (folder / "rank-00000-of-00001.safetensors").write_bytes(bytes(range(100)))
    return tmp_path


@pytest.mark.parametrize(("byte", "place"), [(7, 7), (107, 7), (None, 50), (-1, 99)])
def test_damage_flips_one_bit_of_the_newest_checkpoint(saved: Path, byte: int | None, place: int) -> None:
    damaged = damage_newest(saved, "flip_checkpoint", byte)
    assert damaged == (
        f"step-00000010/rank-00000-of-00001.safetensors, a bit of byte {place}",
        str(saved / "checkpoints/step-00000010"),
    )
    whole, flipped = (
        (saved / f"checkpoints/step-{step:08d}/rank-00000-of-00001.safetensors").read_bytes() for step in (5, 10)
    )
    assert [index for index in range(100) if whole[index] != flipped[index]] == [place]
    assert (whole[place] ^ flipped[place]).bit_count() == 1


def test_damage_cuts_or_loses_the_newest_checkpoint(saved: Path) -> None:
    damage_newest(saved, "cut_checkpoint", 30)
    assert (saved / "checkpoints/step-00000010/rank-00000-of-00001.safetensors").stat().st_size == 30
    damage_newest(saved, "lose_checkpoint", None)
    assert [path.name for path in (saved / "checkpoints").iterdir()] == ["step-00000005"]


def test_damage_finds_nothing_where_nothing_was_saved(tmp_path: Path) -> None:
    assert damage_newest(tmp_path, "flip_checkpoint", None) is None
