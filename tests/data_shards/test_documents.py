import json
from pathlib import Path
from typing import Any

import pytest

from data_shards.documents import read_documents
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile
from tests.data_shards.reading import documents_of


def read(path: Path, rejects: Rejects | None = None, start: int = 0, **fields: Any) -> list[str]:
    defaults = {"format": "text", "compression": "", "field": "", "document": "file", **fields}
    file = SourceFile(path=str(path), **defaults)
    return documents_of(read_documents(file, start, path.stat().st_size, rejects or Rejects("fail")))


def read_jsonl(path: Path, rejects: Rejects | None = None, field: str = "text", start: int = 0) -> list[str]:
    return read(path, rejects, start, format="jsonl", field=field, document="")


def file_of(folder: Path, data: bytes) -> Path:
    (folder / "f").write_bytes(data)
    return folder / "f"


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
