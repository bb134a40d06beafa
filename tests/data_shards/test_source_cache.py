import os
from pathlib import Path

import pytest

from data_shards import source_cache
from data_shards.errors import DataError
from data_shards.source_cache import SourceCache
from data_shards.sources import SourceFile
from data_shards.units import Piece, cut_file


@pytest.fixture
def file(tmp_path: Path) -> SourceFile:
    (tmp_path / "a.txt").write_bytes(b"1\n2\n3\n")
    return SourceFile(str(tmp_path / "a.txt"), "text", "", "", "line")


def refuse_to_read(file: SourceFile, unit_bytes: int) -> tuple[Piece, ...]:
    raise AssertionError(f"{file.path} was to be known already")


def saved(path: Path, file: SourceFile) -> tuple[Piece, ...]:
    cache = SourceCache(path)
    pieces = cache.cut(file, 4)
    assert cache.changed
    cache.save()
    assert not cache.changed
    return pieces


def test_source_cache_known_file_is_not_read_again(
    tmp_path: Path, file: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = saved(tmp_path / "cache", file)
    assert pieces == cut_file(file, 4)
    monkeypatch.setattr(source_cache, "cut_file", refuse_to_read)
    again = SourceCache(tmp_path / "cache")
    assert again.cut(file, 4) == pieces
    assert not again.changed


def test_source_cache_changed_size_time_or_cut_is_read_again(tmp_path: Path, file: SourceFile) -> None:
    saved(tmp_path / "cache", file)
    Path(file.path).write_bytes(b"4\n5\n6\n")
    os.utime(file.path, ns=(1, 1))
    assert SourceCache(tmp_path / "cache").cut(file, 4) == cut_file(file, 4)
    assert SourceCache(tmp_path / "cache").cut(file, 2) == cut_file(file, 2)


def test_source_cache_torn_file_counts_as_absent(tmp_path: Path, file: SourceFile) -> None:
    saved(tmp_path / "cache", file)
    (tmp_path / "cache").write_bytes(b'{"a')
    assert SourceCache(tmp_path / "cache").cut(file, 4) == cut_file(file, 4)


def test_source_cache_forgets_files_that_are_no_longer_used(tmp_path: Path, file: SourceFile) -> None:
    saved(tmp_path / "cache", file)
    cache = SourceCache(tmp_path / "cache")
    assert cache.changed
    cache.save()
    assert (tmp_path / "cache").read_bytes() == b"{}"


def test_source_cache_names_files_that_changed_since(tmp_path: Path, file: SourceFile) -> None:
    cache = SourceCache(tmp_path / "cache")
    cache.cut(file, 4)
    assert cache.changed_files() == frozenset()
    os.utime(file.path, ns=(1, 1))
    assert cache.changed_files() == {file.path}


def test_source_cache_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, file: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(file: SourceFile, unit_bytes: int) -> tuple[Piece, ...]:
        pieces = cut_file(file, unit_bytes)
        Path(file.path).write_bytes(b"longer than before\n")
        return pieces

    monkeypatch.setattr(source_cache, "cut_file", change)
    with pytest.raises(DataError, match=r"a\.txt: changed while it was being read"):
        SourceCache(tmp_path / "cache").cut(file, 4)


def test_source_cache_missing_file_is_refused(tmp_path: Path, file: SourceFile) -> None:
    Path(file.path).unlink()
    with pytest.raises(DataError, match=r"a\.txt: cannot be read \(No such file"):
        SourceCache(tmp_path / "cache").cut(file, 4)
