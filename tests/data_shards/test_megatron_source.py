import struct
from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import megatron_source
from data_shards.columns import PART_TOKENS
from data_shards.errors import DataError
from data_shards.megatron_source import ranges, read
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile
from tests.data_shards.test_token_source import tokens_of

Document = Sequence[Sequence[int]]
"""The sequences (sentences) of a document."""

DOCUMENTS: list[Document] = [[[1, 2, 3], [4]], [[5]], [], [[6, 7], [], [8]]]
FLAT = [[1, 2, 3, 4], [5], [6, 7, 8]]
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write_pair(prefix: Path, documents: Sequence[Document], dtype: str = "int32", gap: int = 0) -> Path:
    """As Megatron-LM's IndexedDatasetBuilder writes it, with `gap` bytes between the sequences' ids."""
    sequences = [np.array(sequence, dtype) for document in documents for sequence in document]
    places, data = [], b""
    for sequence in sequences:
        places.append(len(data))
        data += sequence.tobytes() + b"\xee" * gap
    borders = np.cumsum([0, *map(len, documents)])
    prefix.with_suffix(".bin").write_bytes(data)
    with prefix.with_suffix(".idx").open("wb") as index:
        index.write(b"MMIDIDX\x00\x00")
        index.write(struct.pack("<Q", 1))
        index.write(struct.pack("<B", CODES[dtype]))
        index.write(struct.pack("<Q", len(sequences)))
        index.write(struct.pack("<Q", len(borders)))
        index.write(np.array([len(sequence) for sequence in sequences], np.int32).tobytes())
        index.write(np.array(places, np.int64).tobytes())
        index.write(borders.astype(np.int64).tobytes())
    return prefix.with_suffix(".idx")


def source(path: Path | str) -> SourceFile:
    return SourceFile(str(path), "megatron", "", "", "")


def documents_of(path: Path | str, rejects: Rejects | None = None, unit_bytes: int = 1 << 40) -> list[list[int]]:
    rejects = rejects or Rejects("fail")
    stretches = ranges(source(path), unit_bytes)
    return [ids for start, end, _ in stretches for ids in tokens_of(read(source(path), start, end, rejects))]


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("gap", [0, 3])
def test_megatron_documents_come_back_exactly(tmp_path: Path, dtype: str, gap: int) -> None:
    rejects = Rejects("fail")
    assert documents_of(write_pair(tmp_path / "a", DOCUMENTS, dtype, gap), rejects) == FLAT
    assert rejects.empty == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=3), max_size=20), st.integers(1, 60))
def test_megatron_ranges_cover_every_document_once(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document], unit_bytes: int
) -> None:
    path = write_pair(tmp_path_factory.mktemp("megatron") / "a", documents)
    flat = [[token for sequence in document for token in sequence] for document in documents]
    assert documents_of(path, unit_bytes=unit_bytes) == [ids for ids in flat if ids]
    sizes = [size for _, _, size in ranges(source(path), unit_bytes)]
    assert all(size <= unit_bytes for size in sizes if size > 4 * max(map(len, flat), default=0))


def test_megatron_documents_are_read_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [[[number] * 7] for number in range(100)]
    path = write_pair(tmp_path / "a", documents, "uint16")
    monkeypatch.setattr(megatron_source, "_DOCUMENTS_AT_ONCE", 7)
    assert documents_of(path) == [[number] * 7 for number in range(100)]


@pytest.mark.parametrize("sequences", [[3 * PART_TOKENS + 5], [PART_TOKENS // 3] * 10, [5, 2 * PART_TOKENS, 7]])
def test_megatron_long_document_comes_in_parts(tmp_path: Path, sequences: list[int]) -> None:
    long = [np.arange(size) % 50_000 for size in sequences]
    path = write_pair(tmp_path / "a", [[[1]], long, [[2]]], "uint16")  # type: ignore[list-item]
    assert documents_of(path) == [[1], np.concatenate(long).tolist(), [2]]
    batches = list(read(source(path), 0, 3, Rejects("fail")))
    assert max(len(batch.ids) for batch in batches) <= PART_TOKENS  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [3, 3 * PART_TOKENS])
def test_megatron_negative_id_is_refused_or_left_out(tmp_path: Path, size: int) -> None:
    bad = np.ones(size, np.int32)
    bad[-1] = -4
    path = write_pair(tmp_path / "a", [[[1]], [bad], [[-1, -2]], [[2]]])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"a\.idx: document 2: not a document of ids: id -4, which is not within 0 to"):
        documents_of(path)
    rejects = Rejects("skip")
    assert documents_of(path, rejects) == [[1], [2]]
    assert [place.where for place in rejects.places] == [f"{path}: document {number}" for number in (2, 3)]


def test_megatron_remote_pair_gives_the_same_ids(tmp_path: Path) -> None:
    path = write_pair(tmp_path / "a", DOCUMENTS)
    for name in ("a.idx", "a.bin"):
        fsspec.filesystem("memory").pipe_file(f"/megatron/{name}", path.with_name(name).read_bytes())
    assert documents_of("memory://megatron/a.idx") == FLAT


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


# The header is 34 bytes; then 6 lengths, 6 places and 5 borders.
LENGTHS, PLACES, BORDERS = 34, 34 + 24, 34 + 24 + 48


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: b"", "it does not begin as a Megatron index does"),
        (lambda data: b"x" + data, "it does not begin as"),
        (lambda data: changed(data, 9, b"\x02"), "version 2 and type 4 are not known"),
        (lambda data: changed(data, 17, b"\x07"), "version 1 and type 7 are not known"),
        (lambda data: data[:-1], "it is shorter than the 146 bytes that its header tells of"),
        (lambda data: changed(data, 18, b"\xff" * 8), "it is shorter than"),
        (lambda data: changed(data, 26, bytes(8)), "it is shorter than"),
        (lambda data: changed(data, BORDERS + 8, b"\x09"), "the borders of documents 0 to 4 are out of order"),
        (lambda data: changed(data, BORDERS, b"\xff" * 8), "the borders of documents"),
        (lambda data: changed(data, LENGTHS, b"\xff" * 4), "a negative length or place in documents 0 to 4"),
        (lambda data: changed(data, PLACES + 7, b"\xff"), "a negative length or place"),
        (lambda data: changed(data, PLACES, b"\xff"), "fewer than .*a.idx tells of: get both files anew"),
        (lambda data: changed(data, PLACES, b"\xff" * 7 + b"\x7f"), "fewer than .*a.idx tells of"),
    ],
)
def test_megatron_damaged_index_is_refused(tmp_path: Path, harm: object, message: str) -> None:
    path = write_pair(tmp_path / "a", DOCUMENTS)
    path.write_bytes(harm(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"a\.(idx|bin): .*{message}"):
        documents_of(path)


def test_megatron_ids_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = write_pair(tmp_path / "a", DOCUMENTS)
    ids = path.with_suffix(".bin")
    ids.write_bytes(ids.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.bin: 31 bytes, fewer than .*a\.idx tells of: get both files anew"):
        documents_of(path)
    ids.unlink()
    with pytest.raises(DataError, match=r"a\.bin: cannot be read \(No such file"):
        documents_of(path)
