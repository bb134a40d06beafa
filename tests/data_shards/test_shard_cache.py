import fcntl
import hashlib
import logging
import mmap
import multiprocessing
import os
import tempfile
import threading
import time
import uuid
from collections import namedtuple
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import shard_cache
from data_shards.errors import DataError
from data_shards.manifest import Shard
from data_shards.object_folder import ObjectFolder
from data_shards.shard_cache import CachePlace, Entry, ShardCache, victims

BYTES = 1000


@pytest.fixture
def folder() -> ObjectFolder:
    return ObjectFolder(f"memory://{uuid.uuid4().hex}/d")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "RETRY_WAITS_SECONDS", (0.0, 0.0))


def content(number: int) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(BYTES)


def upload(folder: ObjectFolder, count: int) -> list[Shard]:
    shards = []
    for number in range(count):
        folder.write(f"train-{number:05d}.tar", content(number))
        digest = hashlib.sha256(content(number)).hexdigest()
        shards.append(Shard("train", "en", f"train-{number:05d}.tar", 400, 1, BYTES, digest, "u", ()))
    return shards


def cache_of(folder: ObjectFolder, dir: Path, shards: float) -> ShardCache:
    """A cache with room for so many shards."""
    return ShardCache(folder, CachePlace(str(dir), int(shards * BYTES)))


def kept(dir: Path) -> set[str]:
    return {path.stem for path in dir.glob("*.tar")}


def counted(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None] = lambda name: None) -> list[str]:
    """The names that are downloaded from now on."""
    real, names = ObjectFolder.download, []

    def download(self: ObjectFolder, name: str, to: Path) -> bool:
        names.append(name)
        before(name)
        return real(self, name, to)

    monkeypatch.setattr(ObjectFolder, "download", download)
    return names


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


ENTRIES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=12).map(
    lambda rows: [Entry(Path(f"{i}"), size, size, float(use)) for i, (size, use) in enumerate(rows)]
)


@given(ENTRIES, st.integers(0, 60), st.integers(0, 300))
def test_victims_are_the_fewest_of_the_longest_unused_that_make_room(
    entries: list[Entry], needed: int, max_bytes: int
) -> None:
    chosen = victims(entries, needed, max_bytes)
    left = [entry for entry in entries if entry not in chosen]

    def fits(stay: Sequence[Entry]) -> bool:
        return sum(entry.size for entry in stay) + needed <= max_bytes

    assert fits(left) or not left
    if chosen:
        assert not fits([*left, chosen[-1]])
        assert max(entry.last_use for entry in chosen) <= min((entry.last_use for entry in left), default=9.0)


def test_cache_gives_the_whole_shard_and_gets_it_once(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, names = upload(folder, 2), counted(monkeypatch)
    cache = cache_of(folder, tmp_path, 9)
    assert [cache.path(shard).read_bytes() for shard in (*shards, *shards)] == [content(0), content(1)] * 2
    assert cache_of(folder, tmp_path, 9).path(shards[1]).read_bytes() == content(1)
    assert names == ["train-00000.tar", "train-00001.tar"]


def test_cache_many_threads_that_want_one_shard_get_it_once(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Barrier(8)
    [shard], names = upload(folder, 1), counted(monkeypatch)
    caches = [cache_of(folder, tmp_path, 9), cache_of(folder, tmp_path, 9)]

    def want(number: int) -> bytes:
        start.wait()
        return caches[number % 2].path(shard).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(want, range(8))) == {content(0)}
    assert names == ["train-00000.tar"]


def _want_in_child(folder: ObjectFolder, dir: Path, shards: list[Shard], log: Path, start: Any) -> None:
    real = ObjectFolder.download

    def download(self: ObjectFolder, name: str, to: Path) -> bool:
        with log.open("a") as file:
            file.write(f"{name}\n")
        return real(self, name, to)

    ObjectFolder.download = download  # type: ignore[method-assign]
    cache = cache_of(folder, dir, 99)
    start.wait()
    for shard in shards:
        assert hashlib.sha256(cache.path(shard).read_bytes()).hexdigest() == shard.sha256


def test_cache_processes_of_a_node_share_it_and_get_each_shard_once(folder: ObjectFolder, tmp_path: Path) -> None:
    shards, fork = upload(folder, 20), multiprocessing.get_context("fork")
    start = fork.Barrier(3)
    given = (folder, tmp_path / "cache", shards, tmp_path / "log", start)
    children = [fork.Process(target=_want_in_child, args=given) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == [shard.path for shard in shards]


def test_cache_stays_within_its_bytes_and_drops_what_was_not_used_longest(folder: ObjectFolder, tmp_path: Path) -> None:
    shards, cache = upload(folder, 6), cache_of(folder, tmp_path, 4.5)
    for age, shard in enumerate(shards[:4]):
        os.utime(cache.path(shard), (age, age))
    cache.path(shards[0])
    cache.path(shards[4])
    assert kept(tmp_path) == {shards[number].sha256 for number in (0, 2, 3, 4)}
    cache.path(shards[5])
    assert kept(tmp_path) == {shards[number].sha256 for number in (0, 3, 4, 5)}


def test_cache_dropped_shard_stays_readable_where_it_is_mapped(folder: ObjectFolder, tmp_path: Path) -> None:
    shards, cache = upload(folder, 8), cache_of(folder, tmp_path, 2)
    with cache.path(shards[0]).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for shard in shards[1:]:
        cache.path(shard)
    assert shards[0].sha256 not in kept(tmp_path)
    assert mapped[:] == content(0)


def test_cache_smaller_than_a_shard_says_so_once_and_works(
    folder: ObjectFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards, cache = upload(folder, 8), cache_of(folder, tmp_path, 0.5)
    for number in (*range(8), 0):
        assert cache.path(shards[number]).read_bytes() == content(number)
    [message] = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert message.startswith("data.cache_bytes: 500 bytes in")
    assert len(kept(tmp_path)) <= 3


def test_cache_counts_what_the_disk_has_left(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, cache = upload(folder, 6), cache_of(folder, tmp_path, 99)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        shard_cache.shutil, "disk_usage", lambda dir: usage(0, 0, 3500 - BYTES * len(list(tmp_path.glob("*.tar"))))
    )
    for shard in shards:
        cache.path(shard)
    assert len(kept(tmp_path)) == 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 7), st.booleans()), max_size=40), st.integers(3, 6))
def test_cache_always_gives_the_right_bytes_and_keeps_its_bound(wishes: list[tuple[int, int, bool]], room: int) -> None:
    folder = ObjectFolder(f"memory://{uuid.uuid4().hex}/d")
    shards = upload(folder, 8)
    with tempfile.TemporaryDirectory() as dir:
        caches = [cache_of(folder, Path(dir), room), cache_of(folder, Path(dir), room)]
        for process, number, is_damaged_here in wishes:
            path = caches[process].path(shards[number])
            assert path.read_bytes() == content(number)
            # Each of the two holds on to two files at most, and brings one more.
            assert sum(kept.stat().st_size for kept in Path(dir).glob("*.tar")) <= max(room, 5) * BYTES
            if is_damaged_here:
                path.write_bytes(b"cut")


def test_cache_damaged_download_is_tried_again(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [shard] = upload(folder, 1)
    folder.write(shard.path, b"\0" * BYTES)

    def mend(name: str) -> None:
        if len(names) == 2:
            folder.write(name, content(0))

    names = counted(monkeypatch, mend)
    assert cache_of(folder, tmp_path, 9).path(shard).read_bytes() == content(0)
    assert len(names) == 2
    assert "train-00000.tar is damaged: it has 1000 bytes with SHA-256" in caplog.text


@pytest.mark.parametrize("damage", [b"\0" * BYTES, b"short", b""])
def test_cache_shard_that_stays_damaged_is_refused_and_not_kept(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    [shard], names = upload(folder, 1), counted(monkeypatch)
    folder.write(shard.path, damage)
    with pytest.raises(DataError, match=rf"d/train-00000\.tar is damaged: it has {len(damage)} bytes .* says 1000"):
        cache_of(folder, tmp_path, 9).path(shard)
    assert len(names) == 3
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_cache_shard_that_stays_damaged_is_brought_in_vain_once(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, names = upload(folder, 2), counted(monkeypatch)
    folder.write(shards[0].path, b"\0" * BYTES)
    cache = cache_of(folder, tmp_path, 9)
    for _ in range(3):  # as for each row of a batch, where bad shards are skipped
        with pytest.raises(DataError, match=r"d/train-00000\.tar is damaged: it has 1000 bytes"):
            cache.path(shards[0])
    assert cache.path(shards[1]).read_bytes() == content(1)
    assert names == [shards[0].path] * 3 + [shards[1].path]


def test_cache_shard_of_another_size_than_the_manifest_says_is_refused(folder: ObjectFolder, tmp_path: Path) -> None:
    [shard] = upload(folder, 1)
    with pytest.raises(DataError, match=r"has 1000 bytes with SHA-256 .* the manifest says 1001 bytes"):
        cache_of(folder, tmp_path, 9).path(replace(shard, bytes=BYTES + 1))


def test_cache_missing_shard_is_refused_at_once(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [shard], names = upload(folder, 1), counted(monkeypatch)
    folder.remove(shard.path)
    with pytest.raises(DataError, match=r"d/train-00000\.tar is missing; the manifest says 1000 bytes"):
        cache_of(folder, tmp_path, 9).path(shard)
    assert len(names) == 1


def test_cache_takes_over_what_a_killed_process_left(folder: ObjectFolder, tmp_path: Path) -> None:
    shards = upload(folder, 3)
    for shard in shards[:2]:
        (tmp_path / f".tmp-{shard.sha256}-{BYTES}").write_bytes(b"half")
    cache = cache_of(folder, tmp_path, 2)
    assert cache.path(shards[0]).read_bytes() == content(0)
    assert cache.path(shards[2]).read_bytes() == content(2)
    assert list(tmp_path.glob(".tmp-*")) == []


def test_cache_leaves_files_alone_that_are_not_its_copies(folder: ObjectFolder, tmp_path: Path) -> None:
    [shard] = upload(folder, 1)
    for name in (".tmp-abc.json-7d5fe738", ".tmp-7-x", "abc.json"):
        (tmp_path / name).write_bytes(b"x" * BYTES)
    cache_of(folder, tmp_path, 1).path(shard)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".tmp-abc.json-7d5fe738",
        ".tmp-7-x",
        "abc.json",
        ".lock",
        f"{shard.sha256}.tar",
    }


def test_cache_leaves_a_download_of_another_process_alone(folder: ObjectFolder, tmp_path: Path) -> None:
    shards = upload(folder, 2)
    draft = tmp_path / f".tmp-{shards[0].sha256}-{BYTES}"
    with draft.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache_of(folder, tmp_path, 1).path(shards[1])
        assert draft.exists()


def test_cache_ahead_brings_shards_before_they_are_asked_for(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, names = upload(folder, 4), counted(monkeypatch)
    cache = cache_of(folder, tmp_path, 99)
    cache.ahead(shards)
    wait_until(lambda: len(kept(tmp_path)) == 4)
    assert [cache.path(shard).read_bytes() for shard in shards] == [content(number) for number in range(4)]
    cache.ahead(shards)
    assert sorted(names) == [shard.path for shard in shards]


def test_cache_ahead_takes_an_eighth_of_the_cache_and_at_least_one(folder: ObjectFolder, tmp_path: Path) -> None:
    shards = upload(folder, 9)
    cache = cache_of(folder, tmp_path / "a", 8 * 3)
    cache.ahead(shards[3:])
    wait_until(lambda: len(kept(tmp_path / "a")) == 3)
    assert kept(tmp_path / "a") == {shard.sha256 for shard in shards[3:6]}
    for number in (4, 3):  # what is used makes room for the next
        cache.path(shards[number])
    wait_until(lambda: len(kept(tmp_path / "a")) == 5)
    assert kept(tmp_path / "a") == {shard.sha256 for shard in shards[3:8]}
    small = cache_of(folder, tmp_path / "b", 3)
    small.ahead(shards)
    wait_until(lambda: kept(tmp_path / "b") == {shards[0].sha256})


def test_cache_ahead_forgets_what_is_no_longer_wanted(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    shards, names = upload(folder, 12), counted(monkeypatch, lambda name: go_on.wait(20) or None)
    cache = cache_of(folder, tmp_path, 999)
    cache.ahead(shards[:10])
    wait_until(lambda: len(names) == shard_cache.AHEAD_THREADS)
    cache.ahead(shards[10:])
    go_on.set()
    wait_until(lambda: len(kept(tmp_path)) == shard_cache.AHEAD_THREADS + 2)
    assert set(names) == {shard.path for shard in (*shards[: shard_cache.AHEAD_THREADS], *shards[10:])}


def test_cache_ahead_of_a_missing_shard_warns_and_the_next_is_brought(
    folder: ObjectFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards, cache = upload(folder, 2), cache_of(folder, tmp_path, 99)
    folder.remove(shards[0].path)
    cache.ahead(shards)
    wait_until(lambda: shards[1].sha256 in kept(tmp_path) and "tried again when it is needed" in caplog.text)
    with pytest.raises(DataError, match="is missing"):
        cache.path(shards[0])


def test_cache_in_a_place_that_cannot_be_made_is_refused(folder: ObjectFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data\.cache_dir: .*file/c cannot be made \(Not a directory\)"):
        cache_of(folder, tmp_path / "file/c", 9)
