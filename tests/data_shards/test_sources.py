import gzip
import os
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard

from data_shards.errors import DataError
from data_shards.settings import SourceSettings
from data_shards.sources import CHUNK_BYTES, expand, file_states, find_files, read_chunks

# Longer than a chunk, and hard to compress.
BIG = b"".join(str(i * i).encode() for i in range(200_000))


def source(path: Path | str, **fields: Any) -> SourceSettings:
    return SourceSettings.model_validate({"path": str(path), **fields})


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_expand_pattern_gives_sorted_files_without_folders_and_hidden_ones(tmp_path: Path) -> None:
    touch(tmp_path, "b.txt", "a.txt", "sub/c.txt", ".hidden.txt", "d.md")
    (tmp_path / "folder.txt").mkdir()
    found = [Path(file.path).relative_to(tmp_path).as_posix() for file in expand(source(tmp_path / "**/*.txt"))]
    assert found == ["a.txt", "b.txt", "sub/c.txt"]


def test_expand_path_with_brackets_that_is_a_file_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].txt")
    assert [file.path for file in expand(source(tmp_path / "a[1].txt"))] == [str(tmp_path / "a[1].txt")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("text", "", "", "file")),
        ("a", ("text", "", "", "file")),
        ("a.txt.gz", ("text", "gz", "", "file")),
        ("a.JSONL.zst", ("jsonl", "zst", "text", "")),
        ("a.ndjson", ("jsonl", "", "text", "")),
        ("a.parquet", ("parquet", "", "text", "")),
        ("a.v2.zst", ("text", "zst", "", "file")),
        ("a.arrow", ("arrow", "", "text", "")),
        ("a.tar", ("webdataset", "", "", "")),
        ("a.tar.zst", ("webdataset", "zst", "", "")),
        ("a.TGZ", ("webdataset", "gz", "", "")),
    ],
)
def test_expand_auto_format_goes_by_suffix(tmp_path: Path, name: str, expected: tuple[str, ...]) -> None:
    touch(tmp_path, name)
    (file,) = expand(source(tmp_path / name))
    assert (file.format, file.compression, file.field, file.document) == expected


def test_expand_given_format_beats_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.json.gz")
    (file,) = expand(source(tmp_path / "a.json.gz", format="jsonl", field="x"))
    assert (file.format, file.compression, file.field) == ("jsonl", "gz", "x")


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("a.txt", "b*.txt", r"data\.sources: b\*\.txt matches no file in .*corpus \(pattern .*b\*\.txt\)"),
        ("a.txt", "no/such/*.txt", r"matches no file in .*corpus \(pattern"),
        ("sub/a.txt", "sub", r"sub is a folder: name its files with a pattern"),
        ("a.json", "a.json", r"a\.json: \.json may be one document or one a line"),
        ("a.parquet.gz", "*", r"a\.parquet\.gz: Parquet inside \.gz is not read: unpack it \(Parquet compresses"),
        ("a.arrow.zst", "*", r"a\.arrow\.zst: Arrow inside \.zst is not read"),
        ("a.idx.gz", "*", r"a\.idx\.gz: a Megatron dataset inside \.gz is not read: unpack it"),
        ("a.idx", "*", r"a\.bin: is missing: a Megatron dataset is a pair of \.bin and \.idx files"),
        ("a.bin", "*", r"a\.idx: is missing: a Megatron dataset is a pair"),
    ],
)
def test_expand_unusable_source_is_refused(tmp_path: Path, name: str, pattern: str, message: str) -> None:
    corpus = tmp_path / "corpus"
    touch(corpus, name)
    with pytest.raises(DataError, match=message):
        expand(source(corpus / pattern))


def test_expand_tokens_go_by_their_container(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "b.arrow", "c.jsonl.gz")
    files = expand(source(tmp_path / "*", format="tokens"))
    assert [(file.format, file.container, file.compression, file.field) for file in files] == [
        ("tokens", "parquet", "", "input_ids"),
        ("tokens", "arrow", "", "input_ids"),
        ("tokens", "jsonl", "gz", "input_ids"),
    ]


def test_expand_tokens_in_an_unknown_container_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.npy")
    with pytest.raises(DataError, match=r"a\.npy: ids are read from \.jsonl, \.ndjson, \.parquet, \.pq, \.arrow files"):
        expand(source(tmp_path / "a.npy", format="tokens"))


@pytest.mark.parametrize("path", ["*", "a.bin", "a.idx", "*.idx", "*.bin"])
def test_expand_megatron_pair_is_one_file_by_whichever_name(tmp_path: Path, path: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "a.idx").write_bytes(b"123")
    (found,) = find_files(source(tmp_path / path))
    assert (found.file.path, found.file.format) == (str(tmp_path / "a.idx"), "megatron")
    assert found.file.paths == (str(tmp_path / "a.idx"), str(tmp_path / "a.bin"))
    assert found.state.size == 8


def test_expand_megatron_prefix_without_suffix_is_that_pair(tmp_path: Path) -> None:
    touch(tmp_path, "text_document.bin", "text_document.idx")
    (file,) = expand(source(tmp_path / "text_document", format="megatron"))
    assert file.path == str(tmp_path / "text_document.idx")


def test_file_states_of_a_megatron_pair_change_with_either_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.bin", "a.idx")
    (found,) = find_files(source(tmp_path / "a.idx"))
    assert file_states([found.file]) == {found.file: found.state}
    os.utime(tmp_path / "a.bin", ns=(1, 1))
    assert file_states([found.file]) != {found.file: found.state}
    (tmp_path / "a.bin").unlink()
    assert file_states([found.file]) == {found.file: None}


def test_expand_remote_pattern_gives_sorted_files_without_hidden_ones() -> None:
    for name in ("b.txt", "sub/a.txt", ".hidden.txt", ".git/c.txt", "d.md"):
        fsspec.filesystem("memory").pipe_file(f"/expand/{name}", b"x")
    files = expand(source("memory://expand/**/*.txt"))
    assert [file.path for file in files] == ["memory:///expand/b.txt", "memory:///expand/sub/a.txt"]
    assert [file.path for file in expand(source("memory://expand/.git/*.txt"))] == ["memory:///expand/.git/c.txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://nothing/*.txt", r"data\.sources: memory://nothing/\*\.txt matches no file: correct"),
        ("memory://expand-folder", r"memory://expand-folder is a folder: name its files with a pattern"),
        ("nosuch://bucket/a.txt", r"nosuch://bucket/a\.txt: no file system is known for nosuch://"),
    ],
)
def test_expand_unusable_address_is_refused(path: str, message: str) -> None:
    fsspec.filesystem("memory").pipe_file("/expand-folder/a.txt", b"x")
    with pytest.raises(DataError, match=message):
        expand(source(path))


def test_expand_address_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(DataError, match=r"gs://b/a: gs:// needs a package .*: pip install headrace\[gs\]"):
        expand(source("gs://b/a"))


def test_read_chunks_plain_range_gives_just_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BIG)
    end = 5 + CHUNK_BYTES + 3
    chunks = list(read_chunks(str(tmp_path / "a"), "", 5, end))
    assert b"".join(chunks) == BIG[5:end]
    assert len(chunks) == 2


def test_read_chunks_file_that_shrank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"a: 2 bytes shorter than"):
        list(read_chunks(str(tmp_path / "a"), "", 0, 5))


def test_read_chunks_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file"):
        list(read_chunks(str(tmp_path / "gone"), "", 0, 1))


def test_read_chunks_gzip_of_two_members_gives_both(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(BIG) + gzip.compress(b"end"))
    assert b"".join(read_chunks(str(tmp_path / "a.gz"), "gz", 0, 0)) == BIG + b"end"


def test_read_chunks_zstd_of_two_frames_gives_both(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(zstandard.compress(BIG) + zstandard.compress(b"end"))
    assert b"".join(read_chunks(str(tmp_path / "a.zst"), "zst", 0, 0)) == BIG + b"end"


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("harm", ["cut", "garbage"])
def test_read_chunks_damaged_compressed_file_is_refused(tmp_path: Path, compression: Any, harm: str) -> None:
    data = gzip.compress(BIG) if compression == "gz" else zstandard.compress(BIG)
    path = tmp_path / f"a.{compression}"
    path.write_bytes(data[: len(data) // 2] if harm == "cut" else b"no such format" + data)
    with pytest.raises(DataError, match=rf"{path}: (damaged|cannot be read)"):
        list(read_chunks(str(path), compression, 0, 0))


def test_read_chunks_remote_file_gives_the_same_bytes() -> None:
    fsspec.filesystem("memory").pipe_file("/chunks/a", BIG)
    assert b"".join(read_chunks("memory://chunks/a", "", 5, len(BIG))) == BIG[5:]
    with pytest.raises(DataError, match=r"memory://chunks/a: 1 bytes shorter than"):
        list(read_chunks("memory://chunks/a", "", 5, len(BIG) + 1))
    with pytest.raises(DataError, match=r"memory://chunks/gone: cannot be read"):
        list(read_chunks("memory://chunks/gone", "", 0, 1))
    fsspec.filesystem("memory").pipe_file("/chunks/a.gz", gzip.compress(BIG))
    assert b"".join(read_chunks("memory://chunks/a.gz", "gz", 0, 0)) == BIG
