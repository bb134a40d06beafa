"""`headrace prepare` as a user runs it: the same bytes on any number of workers and nodes, whatever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.chaos.process_table import read_parents
from data_shards.dataset import Dataset
from data_shards.prepare import prepare
from data_shards.verify import verify
from tests.data_shards.corpora import public_files, times_of_change, write_lines
from tests.end_to_end.headrace import headrace, run_file, started, wait_until
from trainer.config import load_run_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LINES = {"a": range(0, 7000), "b": range(7000, 8000), "c": range(8000, 12000)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the corpus of this module lies; its datasets lie beside it."""
    folder = tmp_path_factory.mktemp("prepare")
    for name, lines in LINES.items():
        write_lines(folder / f"corpus/{name}.txt", lines)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, bytes]:
    """The files of the dataset, made in this process alone."""
    config = load_run_file(corpus_file(folder, "serial"), [])
    prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
    files = dict(public_files(folder / "serial"))
    assert sum(name.startswith("train-") for name in files) > 200
    return files


def corpus_file(folder: Path, name: str, workers: int = 1, **changes: Any) -> Path:
    """A run file for the dataset `folder/name`, in a few hundred units."""
    data = {"data__dir": str(folder / name), "data__unit_bytes": 5000, "cluster": {"workers": workers}}
    return run_file(folder, name, **{**data, **changes})


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """A cluster of nodes with one CPU each, all on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def descends(pid: int, ancestor: int, parent: dict[int, int]) -> bool:
    while pid in parent and pid != ancestor:
        pid = parent[pid]
    return pid == ancestor


def title(pid: int) -> str:
    """The process's title, as `ps` shows it; nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def workers_of(ancestor: int) -> list[int]:
    """The processes below `ancestor` that are at work on a unit."""
    parent = read_parents()
    return [pid for pid in parent if title(pid).startswith("ray::run_unit") and descends(pid, ancestor, parent)]


def kill_within_a_unit(ancestor: int) -> int:
    """Kill a worker below `ancestor` in the middle of a unit; its process id."""

    def stopped() -> int | None:
        for pid in workers_of(ancestor):
            os.kill(pid, signal.SIGSTOP)
            if title(pid).startswith("ray::run_unit"):
                return pid
            os.kill(pid, signal.SIGCONT)
        return None

    pid: int = wait_until(stopped, "a worker at work")
    os.kill(pid, signal.SIGKILL)
    return pid


def node_at_work(cluster: Any) -> Any:
    """A node other than the head that is at work on a unit, or None."""
    pids = {node: node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
    return next((node for node, pid in pids.items() if workers_of(pid)), None)


def units_done(dir: Path) -> list[str]:
    """Keys of the units that an unfinished prepare has done."""
    return [path.stem for path in (dir / ".units").glob("*.json") if not path.name.startswith(".")]


def is_half_way(dir: Path) -> bool:
    return len(units_done(dir)) >= 30


def tars(dir: Path) -> dict[str, int]:
    """When each shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in dir.glob("*.tar")}


def test_prepare_again_changed_and_with_a_source_removed_on_one_worker(
    folder: Path, undisturbed: dict[str, bytes]
) -> None:
    file, dir = corpus_file(folder, "one"), folder / "one"
    with ray_cluster(nodes=1) as cluster:
        done = headrace("prepare", file, "--address", cluster.address)
        assert done.returncode == 0, done.stderr
        assert "prepared in" in done.stdout
        assert public_files(dir) == undisturbed
        first = Dataset.open(dir)

        before = times_of_change(dir)
        done = headrace("prepare", file)
        assert "up to date" in done.stdout, done.stderr
        assert times_of_change(dir) == before

        shards = tars(dir)
        try:
            write_lines(folder / "corpus/b.txt", range(20_000, 20_500))
            (folder / "corpus/c.txt").rename(folder / "c.txt")
            done = headrace("prepare", file, "--address", cluster.address)
        finally:
            write_lines(folder / "corpus/b.txt", LINES["b"])
            (folder / "c.txt").rename(folder / "corpus/c.txt")
        assert done.returncode == 0, done.stderr
        assert "prepared in" in done.stdout

    second = Dataset.open(dir)
    old = {shard.path for shard in first.shards}
    assert {name: time for name, time in tars(dir).items() if name in shards} == shards
    kept = {shard.path for shard in second.shards} & old
    per_line = len(old) / 12_000
    assert abs(len(kept) - 7000 * per_line) <= 4
    assert abs(len(second.shards) - len(kept) - 500 * per_line) <= 4
    # A run that began with the version before still has all of it.
    assert Dataset.open(dir, first.fingerprint).shards == first.shards
    assert verify(dir).problems == ()


@pytest.mark.faults
def test_prepare_on_four_workers_after_one_was_killed_gives_the_same_bytes(
    folder: Path, undisturbed: dict[str, bytes]
) -> None:
    file, dir = corpus_file(folder, "four", workers=4), folder / "four"
    with started("prepare", file, log=folder / "four.log") as driver:
        wait_until(lambda: is_half_way(dir), "thirty units")
        kill_within_a_unit(driver.pid)
        assert not (dir / "dataset.json").exists()
        assert driver.wait(timeout=90) == 0, (folder / "four.log").read_text()
    assert public_files(dir) == undisturbed
    assert not list(dir.glob(".units/*"))


@pytest.mark.faults
@pytest.mark.long
def test_prepare_on_two_workers_after_the_driver_was_killed_goes_on_with_the_same_bytes(
    folder: Path, undisturbed: dict[str, bytes]
) -> None:
    file, dir = corpus_file(folder, "two", workers=2), folder / "two"
    with started("prepare", file, log=folder / "two.log") as driver:
        wait_until(lambda: is_half_way(dir), "thirty units")
        workers = workers_of(driver.pid)
        driver.kill()
        driver.wait()
    assert not (dir / "dataset.json").exists()
    wait_until(lambda: not any(title(pid) for pid in workers), "the workers' end")
    done_before, shards = units_done(dir), tars(dir)
    assert len(done_before) < sum(name.startswith("train-") for name in undisturbed)

    done = headrace("prepare", file)
    assert done.returncode == 0, done.stderr
    assert public_files(dir) == undisturbed
    kept = [shard.path for shard in Dataset.open(dir).shards if shard.unit in done_before]
    assert len(kept) >= 30
    assert {name: tars(dir)[name] for name in kept} == {name: shards[name] for name in kept}


@pytest.mark.faults
@pytest.mark.long
def test_prepare_on_three_nodes_after_one_was_lost_gives_the_same_bytes(
    folder: Path, undisturbed: dict[str, bytes]
) -> None:
    file, dir = corpus_file(folder, "three"), folder / "three"
    with (
        ray_cluster(nodes=3) as cluster,
        started("prepare", file, "--address", cluster.address, log=folder / "three.log") as driver,
    ):
        wait_until(lambda: is_half_way(dir), "thirty units")
        assert not (dir / "dataset.json").exists()
        cluster.remove_node(wait_until(lambda: node_at_work(cluster), "a node at work"), allow_graceful=False)
        assert driver.wait(timeout=120) == 0, (folder / "three.log").read_text()
    assert public_files(dir) == undisturbed


def test_prepare_tells_how_many_bad_records_were_left_out_and_where_they_are(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n{"body": "x"}\n[1]\n{"text": 5}\nnonsense\n')
    sources = [{"path": "corpus/b.txt", "document": "line"}, "bad.jsonl"]
    file = corpus_file(folder, "skips", data__sources=sources, data__on_bad_record="skip")
    done = headrace("prepare", file)
    assert done.returncode == 0, done.stderr
    assert "left out: 5 bad records (2 not JSON, " in done.stdout
    assert str(folder / "skips/rejects.parquet") in done.stdout
    rows = pq.read_table(folder / "skips/rejects.parquet").to_pylist()
    assert [(row["where"], row["reason"]) for row in rows][::4] == [
        (f"{folder}/bad.jsonl:2", "not JSON"),
        (f"{folder}/bad.jsonl:6", "not JSON"),
    ]
