from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.record_files import read_records, text_of, write_records


def test_read_records_of_lines_and_of_json(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("tide\r\n\n 三国 \x85 mill\n".encode())
    assert read_records(tmp_path / "p.txt", "prompt") == [{"prompt": "tide"}, {"prompt": " 三国 \x85 mill"}]
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "id": 7}\n\n{"prompt": ""}\n')
    assert read_records(tmp_path / "p.jsonl", "prompt") == [{"prompt": "a", "id": 7}, {"prompt": ""}]


def test_read_records_finds_nested_fields(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"mail": {"body": "a"}, "subject": "b"}\n')
    [record] = read_records(tmp_path / "p.jsonl", "mail.body", "subject")
    assert (text_of(record, "mail.body"), text_of(record, "subject"), text_of(record, "mail")) == ("a", "b", None)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "a", "must end in .txt"),
        ("p.txt", "\n", "has no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', "p.jsonl:2: must be JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "p.jsonl:2: must be an object"),
        ("p.jsonl", '{"prompt": 3}\n', "p.jsonl:1: must be an object"),
        ("p.jsonl", '["prompt"]\n', "p.jsonl:1: must be an object"),
    ],
)
def test_read_records_of_a_bad_file_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ClusterError, match=said):
        read_records(tmp_path / name, "prompt")
    with pytest.raises(ClusterError, match="cannot be read"):
        read_records(tmp_path / "none.txt", "prompt")


def test_read_records_with_two_fields_are_not_read_from_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(ClusterError, match=r"must be a \.jsonl, since a record has text and pair"):
        read_records(tmp_path / "p.txt", "text", "pair")


def test_write_records_leaves_the_whole_file_or_nothing(tmp_path: Path) -> None:
    to = tmp_path / "new/out.jsonl"
    write_records(to, [{"a": "三国"}, {"b": 1}])
    assert [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()] == [{"a": "三国"}, {"b": 1}]
    assert list(to.parent.iterdir()) == [to]
    with pytest.raises(ClusterError, match=r"--to .*: cannot be written"):
        write_records(to / "below.jsonl", [])
