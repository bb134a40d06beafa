import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.documents import read_documents, split_lines
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile


def read(path: Path, rejects: Rejects | None = None, start: int = 0, **fields: Any) -> list[str]:
    defaults = {"format": "text", "compression": "", "field": "", "document": "file", **fields}
    file = SourceFile(path=str(path), **defaults)
    end = pq.ParquetFile(path).num_row_groups if file.format == "parquet" else path.stat().st_size
    return list(read_documents(file, start, end, rejects or Rejects("fail")))


def read_jsonl(path: Path, rejects: Rejects | None = None, field: str = "text", start: int = 0) -> list[str]:
    return read(path, rejects, start, format="jsonl", field=field, document="")


def read_parquet(path: Path, rejects: Rejects | None = None, field: str = "text") -> list[str]:
    return read(path, rejects, format="parquet", field=field, document="")


def file_of(folder: Path, data: bytes) -> Path:
    (folder / "f").write_bytes(data)
    return folder / "f"


@given(st.lists(st.binary(max_size=20)))
def test_split_lines_any_chunks_join_to_the_same_bytes(chunks: list[bytes]) -> None:
    lines = list(split_lines(chunks))
    assert b"".join(lines) == b"".join(chunks)
    assert all(line.endswith(b"\n") for line in lines[:-1])
    assert all(b"\n" not in line[:-1] for line in lines)


def test_file_document_is_not_changed_at_all(tmp_path: Path) -> None:
    text = "\ufeffa\r\nb\rc\u2028d\n\n \t"
    assert read(file_of(tmp_path, text.encode())) == [text]


def test_line_documents_lose_their_terminator_alone(tmp_path: Path) -> None:
    rejects = Rejects("fail")
    path = file_of(tmp_path, "a \r\n\n\u2028b\x0bc\rd\n\r\nlast\r".encode())
    assert read(path, rejects, document="line") == ["a ", "\u2028b\x0bc\rd", "last\r"]
    assert rejects.empty == 2


def test_blank_line_documents_stand_between_empty_lines(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"\n\none\ntwo\r\n\r\n\nthree\n \nfour\n\n\nfive")
    assert read(path, document="blank_line") == ["one\ntwo", "three\n \nfour", "five"]


def test_empty_file_is_counted_as_empty_document(tmp_path: Path) -> None:
    rejects = Rejects("fail")
    assert read(file_of(tmp_path, b""), rejects) == []
    assert rejects.empty == 1


@pytest.mark.parametrize("document", ["file", "line", "blank_line"])
def test_invalid_utf8_names_file_line_and_bytes(tmp_path: Path, document: str) -> None:
    path = file_of(tmp_path, b"good\nb\xc3\xa9d \xe4\xb8 x\n")
    with pytest.raises(
        DataError, match=rf"{path}:2: invalid UTF-8: byte 6 of the line, 0xe4b8 \(.*on_bad_record: skip"
    ):
        read(path, document=document)


def test_invalid_utf8_in_a_later_piece_names_the_line_of_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"1\n2\n3\n4\xff\n")
    with pytest.raises(DataError, match=f"{path}:4: invalid UTF-8: byte 2 of the line, 0xff"):
        read(path, start=4, document="line")


def test_invalid_utf8_is_skipped_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rejects = Rejects("skip")
    path = file_of(tmp_path, b"good\n\xff\nalso good\n" + b"\xfe\n" * 9)
    assert read(path, rejects, document="line") == ["good", "also good"]
    assert rejects.skipped == {"invalid UTF-8": 10}
    assert len(caplog.messages) == 5
    assert caplog.messages[0].startswith(f"skipped {path}:2: invalid UTF-8")


def test_jsonl_text_comes_back_exactly(tmp_path: Path) -> None:
    texts = ["a\r\nb", "\u2028", "三国 \U0001f600 <|endoftext|>", "\x00"]
    data = "".join(json.dumps({"text": text}, ensure_ascii=i % 2 == 0) + "\r\n" for i, text in enumerate(texts))
    assert read_jsonl(file_of(tmp_path, data.encode())) == texts


def test_jsonl_nested_field_and_empty_lines(tmp_path: Path) -> None:
    rejects = Rejects("fail")
    path = file_of(tmp_path, b'{"a": {"b": "x"}}\n\n \r\n{"a": {"b": ""}}\n{"a": {"b": "y"}}')
    assert read_jsonl(path, rejects, "a.b") == ["x", "y"]
    assert rejects.empty == 3


@pytest.mark.parametrize(
    ("line", "field", "reason", "found"),
    [
        (b'{"text": "x"', "text", "not JSON", r"Expecting ',' delimiter.*the line is \{\"text\": \"x\""),
        (b"[" * 100_000, "text", "not JSON", "recursion"),
        (b'["x"]', "text", "not a JSON object", r'list \["x"\]'),
        (b'{"body": "x", "id": 1}', "text", "no field text", "keys body, id"),
        (b'{"a": {"c": 1}}', "a.b", r"no field a\.b", "keys c"),
        (b'{"a": 7}', "a.b", r"no field a\.b", "7"),
        (b'{"text": 7}', "text", "field text is no string", "int 7"),
        (b'{"text": null}', "text", "field text is no string", "NoneType null"),
        (b'{"text": "\\ud800"}', "text", "field text holds half a surrogate pair", "ud800"),
        (b'{"text": "\xff"}', "text", "invalid UTF-8", "byte 11 of the line, 0xff"),
    ],
)
def test_jsonl_bad_line_is_refused_or_skipped(tmp_path: Path, line: bytes, field: str, reason: str, found: str) -> None:
    path = file_of(tmp_path, b'{"text": "good", "a": {"b": "good"}}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"{path}:2: {reason}: .*{found}"):
        read_jsonl(path, field=field)
    rejects = Rejects("skip")
    assert read_jsonl(path, rejects, field) == ["good"]
    assert rejects.skipped.total() == 1


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_comes_back_exactly(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["a\r\n", "三国", "", "a\r\n", "\u2028"]
    pq.write_table(
        pa.table({"id": range(5), "text": pa.array(texts, pa.string()).cast(kind)}), tmp_path / "p", row_group_size=2
    )
    rejects = Rejects("fail")
    assert read_parquet(tmp_path / "p", rejects) == ["a\r\n", "三国", "a\r\n", "\u2028"]
    assert rejects.empty == 1


def test_parquet_nested_field_with_nulls(tmp_path: Path) -> None:
    rows = [{"b": "x"}, None, {"b": None}, {"b": "y"}]
    pq.write_table(pa.table({"a": rows}), tmp_path / "p")
    with pytest.raises(DataError, match=r"p: row group 0, row 2: field a\.b is no string: null"):
        read_parquet(tmp_path / "p", field="a.b")
    rejects = Rejects("skip")
    assert read_parquet(tmp_path / "p", rejects, "a.b") == ["x", "y"]
    assert rejects.skipped == {"field a.b is no string": 2}


def test_parquet_invalid_utf8_names_the_row(tmp_path: Path) -> None:
    array = pa.array([b"good", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": array}), tmp_path / "p")
    with pytest.raises(DataError, match=r"row group 0, row 2: invalid UTF-8: byte 1 of the line, 0xff"):
        read_parquet(tmp_path / "p")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("body", "p: no column body; there is id, text, a: set the source's field"),
        ("a.c", r"p: no column a\.c; there is b: set"),
        ("text.x", r"p: no column text\.x; there is none: set"),
        ("id", "p: column id holds int64, not strings"),
    ],
)
def test_parquet_wrong_field_is_refused(tmp_path: Path, field: str, message: str) -> None:
    pq.write_table(pa.table({"id": [1], "text": ["x"], "a": [{"b": "y"}]}), tmp_path / "p")
    with pytest.raises(DataError, match=message):
        read_parquet(tmp_path / "p", field=field)


def test_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = SourceFile(str(file_of(tmp_path, b"no parquet")), "parquet", "", "text", "")
    with pytest.raises(DataError, match="f: not a Parquet file"):
        list(read_documents(file, 0, 1, Rejects("fail")))
