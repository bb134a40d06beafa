import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from data_shards import token_source
from data_shards.batches import Batch, TokenBatch, Withdrawal
from data_shards.columns import PART_TOKENS, column_tokens
from data_shards.errors import DataError
from data_shards.pieces import cut_file
from data_shards.rejects import Rejects
from data_shards.source_files import state_of
from data_shards.sources import FoundFile, SourceFile
from data_shards.token_source import read

DOCUMENTS = [[1, 2, 3], [70_000], list(range(300)), [5]]


def tokens_of(batches: Iterable[Batch]) -> list[list[int]]:
    """The whole documents of batches of ids, with the rules of `data_shards.batches` asserted."""
    documents: list[list[int]] = []
    goes_on = False
    for batch in batches:
        if isinstance(batch, Withdrawal):
            assert goes_on
            documents.pop()
            goes_on = False
            continue
        assert isinstance(batch, TokenBatch)
        assert (batch.ids.dtype, batch.offsets.dtype) == (np.uint32, np.int64)
        assert batch.offsets[0] == 0 and batch.offsets[-1] == len(batch.ids) and np.all(np.diff(batch.offsets) > 0)
        found = [part.tolist() for part in np.split(batch.ids, batch.offsets[1:-1])]
        if goes_on:
            documents[-1] += found.pop(0)
        documents += found
        goes_on = batch.unfinished
    assert not goes_on
    return documents


def source(path: Path, container: str, field: str = "input_ids") -> SourceFile:
    return SourceFile(str(path), "tokens", "", field, "", container)


def write(path: Path, container: str, column: pa.Array, field: str = "input_ids") -> Path:
    table = pa.table({"id": range(len(column)), field: column})
    if container == "parquet":
        pq.write_table(table, path, row_group_size=2)
    elif container == "arrow":
        with path.open("wb") as file, ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        rows = [{field: row.as_py()} for row in column]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def documents_of(file: SourceFile, rejects: Rejects | None = None, unit_bytes: int = 1) -> list[list[int]]:
    rejects = rejects or Rejects("fail")
    pieces = cut_file(FoundFile(file, state_of(file.path)), unit_bytes)
    return [ids for piece in pieces for ids in tokens_of(read(file, piece.start, piece.end, rejects))]


@pytest.mark.parametrize("container", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize("kind", [pa.int32(), pa.uint32(), pa.int64()])
def test_tokens_come_back_exactly(tmp_path: Path, container: str, kind: pa.DataType) -> None:
    path = write(tmp_path / "t", container, pa.array(DOCUMENTS, pa.list_(kind)))
    assert documents_of(source(path, container)) == DOCUMENTS
    assert documents_of(source(path, container), unit_bytes=1 << 30) == DOCUMENTS


@pytest.mark.parametrize("container", ["parquet", "arrow"])
def test_tokens_in_lists_of_one_size(tmp_path: Path, container: str) -> None:
    path = write(tmp_path / "t", container, pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.uint16(), 2)))
    assert documents_of(source(path, container)) == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("container", ["parquet", "arrow", "jsonl"])
@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (None, "null"),
        ([1, -1], "id -1, which is not within 0 to 4294967295"),
        ([1 << 32], "id 4294967296, which is not within"),
        ([1, None], "null"),
    ],
)
def test_tokens_bad_document_is_refused_or_left_out(tmp_path: Path, container: str, bad: Any, found: str) -> None:
    column = pa.array([[1, 2], [], bad, [3]], pa.list_(pa.int64()))
    file = source(write(tmp_path / "t", container, column), container)
    place = {"parquet": "row group 1, row 1", "arrow": "record batch 1, row 1", "jsonl": "t:3"}[container]
    with pytest.raises(DataError, match=rf"{place}: field input_ids is no list of ids: .*{found}"):
        documents_of(file)
    rejects = Rejects("skip")
    assert documents_of(file, rejects) == [[1, 2], [3]]
    assert (rejects.empty, rejects.skipped) == (1, {"field input_ids is no list of ids": 1})


@pytest.mark.parametrize("container", ["parquet", "arrow"])
def test_tokens_column_of_something_else_is_refused(tmp_path: Path, container: str) -> None:
    path = write(tmp_path / "t", container, pa.array(["text"]))
    with pytest.raises(DataError, match="t: column input_ids holds string, not lists of integers: set the source's"):
        documents_of(source(path, container))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"a": {"ids": "x"}}', "Expected `array`"),
        (b'{"a": {"ids": [1.5]}}', "Expected `int`"),
        (b'{"a": 1}', "Expected `object`"),
        (b'{"b": 1}', "missing required field"),
        (b"[1", "Expected `object`"),
        (b'{"a": {"ids": [1]}, "b": "\xff"}', "the line is"),
        (b"\xff", "malformed"),
    ],
)
def test_tokens_bad_line_is_refused_or_left_out(tmp_path: Path, line: bytes, found: str) -> None:
    good = b'{"a": {"ids": [1, 2], "more": "x"}}\n'
    (tmp_path / "t").write_bytes(good + line + b"\n\n" + good)
    file = source(tmp_path / "t", "jsonl", "a.ids")
    if b'"b": "' not in line:  # what is not looked at is not checked
        with pytest.raises(DataError, match=rf"t:2: field a\.ids is no list of ids: .*{found}"):
            documents_of(file)
    rejects = Rejects("skip")
    assert len(documents_of(file, rejects)) == 2 + (b'"b": "' in line)
    assert rejects.empty == 1


def test_tokens_line_too_long_to_be_held_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_source, "_LONGEST_LINE_BYTES", 6 << 20)
    lines = [
        {"input_ids": [7]},
        {"input_ids": [100_000] * 700_000},
        {"input_ids": [123456] * 1_000_000},
        {"input_ids": [9]},
    ]
    (tmp_path / "t").write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))
    rejects = Rejects("skip")
    assert [len(ids) for ids in documents_of(source(tmp_path / "t", "jsonl"), rejects, 1 << 30)] == [1, 700_000, 1]
    assert [(place.where, place.reason) for place in rejects.places] == [(f"{tmp_path}/t:3", "line too long")]


def test_tokens_long_document_comes_in_parts_or_not_at_all() -> None:
    long = np.arange(2 * PART_TOKENS + 5)
    column = pa.array([[1], long, [2]], pa.list_(pa.int64()))
    batches = list(column_tokens(column, str, "f", Rejects("fail")))
    assert tokens_of(batches) == [[1], long.tolist(), [2]]
    assert max(len(batch.ids) for batch in batches) == PART_TOKENS
    long[-1] = -3
    rejects = Rejects("skip")
    column = pa.array([[1], long, [2]], pa.list_(pa.int64()))
    assert tokens_of(column_tokens(column, str, "f", rejects)) == [[1], [2]]
    assert rejects.skipped.total() == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=4), max_size=12), st.integers(0, 5))
def test_column_tokens_of_a_slice_are_those_of_its_rows(rows: list[list[int] | None], skipped: int) -> None:
    column = pa.array(rows, pa.list_(pa.int32())).slice(skipped)
    rejects = Rejects("skip", logged_per_reason=0)
    assert tokens_of(column_tokens(column, str, "f", rejects)) == [row for row in rows[skipped:] if row]
    assert (rejects.empty, rejects.skipped.total()) == (rows[skipped:].count([]), rows[skipped:].count(None))
