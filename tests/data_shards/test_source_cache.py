import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from data_shards import source_cache
from data_shards.errors import DataError
from data_shards.pieces import Piece, cut_file
from data_shards.source_cache import CACHE_FILE, SourceCache
from data_shards.source_files import find
from data_shards.sources import FoundFile, SourceFile
from data_shards.storage import LocalFolder


def found(path: str) -> FoundFile:
    (state,) = find(path).values()
    return FoundFile(SourceFile(path, "text", "", "", "line"), state)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_bytes(b"1\n2\n3\n")
    return str(tmp_path / "a.txt")


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path / "cache")


def refuse_to_read(found: FoundFile, unit_bytes: int) -> tuple[Piece, ...]:
    raise AssertionError(f"{found.file.path} was to be known already")


def saved(folder: LocalFolder, path: str) -> tuple[Piece, ...]:
    cache = SourceCache(folder)
    pieces = cache.cut(found(path), 4)
    assert cache.changed
    cache.save()
    assert not cache.changed
    return pieces


def test_source_cache_known_file_is_not_read_again(
    folder: LocalFolder, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = saved(folder, path)
    assert pieces == cut_file(found(path), 4)
    monkeypatch.setattr(source_cache, "cut_file", refuse_to_read)
    again = SourceCache(folder)
    assert again.cut(found(path), 4) == pieces
    assert not again.changed


def test_source_cache_changed_size_time_or_cut_is_read_again(folder: LocalFolder, path: str) -> None:
    before = saved(folder, path)
    Path(path).write_bytes(b"4\n5\n6\n")
    os.utime(path, ns=(1, 1))
    assert SourceCache(folder).cut(found(path), 4) == cut_file(found(path), 4) != before
    assert SourceCache(folder).cut(found(path), 2) == cut_file(found(path), 2)


def test_source_cache_file_read_in_two_manners_is_kept_in_both(folder: LocalFolder, path: str) -> None:
    cache = SourceCache(folder)
    whole = FoundFile(SourceFile(path, "text", "", "", "file"), found(path).state)
    assert (len(cache.cut(found(path), 4)), len(cache.cut(whole, 4))) == (2, 1)
    cache.save()
    again = SourceCache(folder)
    assert (len(again.cut(found(path), 4)), len(again.cut(whole, 4))) == (2, 1)
    assert not again.changed


def test_source_cache_torn_file_counts_as_absent(folder: LocalFolder, path: str) -> None:
    saved(folder, path)
    (folder.path / CACHE_FILE).write_bytes(b'{"a')
    assert SourceCache(folder).cut(found(path), 4) == cut_file(found(path), 4)


def test_source_cache_forgets_files_that_are_no_longer_used(folder: LocalFolder, path: str) -> None:
    saved(folder, path)
    cache = SourceCache(folder)
    assert cache.changed
    cache.save()
    assert (folder.path / CACHE_FILE).read_bytes() == b"{}"


def test_source_cache_names_files_that_changed_or_went_since(folder: LocalFolder, path: str) -> None:
    cache = SourceCache(folder)
    cache.cut(found(path), 4)
    assert cache.changed_files() == frozenset()
    os.utime(path, ns=(1, 1))
    assert cache.changed_files() == {path}
    Path(path).unlink()
    assert cache.changed_files() == {path}


def test_source_cache_file_that_changes_while_it_is_read_is_refused(
    folder: LocalFolder, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(found: FoundFile, unit_bytes: int) -> tuple[Piece, ...]:
        pieces = cut_file(found, unit_bytes)
        Path(path).write_bytes(b"longer than before\n")
        return pieces

    monkeypatch.setattr(source_cache, "cut_file", change)
    with pytest.raises(DataError, match=r"a\.txt: changed while it was being read"):
        SourceCache(folder).cut(found(path), 4)


def test_source_cache_file_that_goes_before_it_is_read_is_refused(folder: LocalFolder, path: str) -> None:
    before = found(path)
    Path(path).unlink()
    with pytest.raises(DataError, match=r"a\.txt: cannot be read \(No such file"):
        SourceCache(folder).cut(before, 4)


def test_source_cache_of_many_threads_is_that_of_one(folder: LocalFolder, tmp_path: Path) -> None:
    files = []
    for number in range(200):
        (tmp_path / f"{number}.txt").write_bytes(b"1\n" * number)
        files.append(found(str(tmp_path / f"{number}.txt")))
    cache = SourceCache(folder)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: cache.cut(file, 40), files))
    cache.save()
    again = SourceCache(folder)
    for file in reversed(files):
        again.cut(file, 40)
    assert not again.changed


def test_source_cache_remote_file_is_known_by_its_state(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/known/a.txt", b"1\n2\n3\n")
    pieces = saved(folder, "memory:///known/a.txt")
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 4), (4, 6)]
    monkeypatch.setattr(source_cache, "cut_file", refuse_to_read)
    cache = SourceCache(folder)
    assert cache.cut(found("memory:///known/a.txt"), 4) == pieces
    assert cache.changed_files() == frozenset()
    store.pipe_file("/known/a.txt", b"4\n5\n6\n")
    assert cache.changed_files() == {"memory:///known/a.txt"}
    with pytest.raises(AssertionError, match="was to be known already"):
        SourceCache(folder).cut(found("memory:///known/a.txt"), 4)
