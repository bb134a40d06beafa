import gzip
from pathlib import Path
from typing import Any

import pytest
import zstandard

from data_shards.errors import DataError
from data_shards.settings import SourceSettings
from data_shards.sources import CHUNK_BYTES, expand, read_chunks

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
        ("a.parquet.gz", "*", r"a\.parquet\.gz: Parquet inside \.gz is not read"),
    ],
)
def test_expand_unusable_source_is_refused(tmp_path: Path, name: str, pattern: str, message: str) -> None:
    corpus = tmp_path / "corpus"
    touch(corpus, name)
    with pytest.raises(DataError, match=message):
        expand(source(corpus / pattern))


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
