import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_shards import json_lines
from data_shards.batches import TextBatch
from data_shards.json_lines import FieldDecoder
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile
from tests.data_shards.reading import documents_of

TEXT = st.text(max_size=8)
VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(TEXT | st.sampled_from(["text", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
GOOD = st.dictionaries(TEXT, VALUE, max_size=2).flatmap(lambda rest: TEXT.map(lambda text: {**rest, "text": text}))
SPELLED = st.tuples(GOOD | VALUE, st.booleans(), st.sampled_from([None, (",", ":")])).map(
    lambda pick: json.dumps(pick[0], ensure_ascii=pick[1], separators=pick[2]).encode("utf-8", "surrogatepass")
)
ODD = st.sampled_from(
    [
        b"",
        b" \t",
        b"\x0b",
        b"\xe2\x80\xa8",
        b'{"text":',
        b'"a"}',
        b'{"text": "a"} {"text": "b"}',
        b'{"text": "a"}{"text": "b"}',
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "a", "text": "b"}',
        b'{"text": 1, "text": "b"}',
        b'{"te\\u0078t": "a\\ud83d\\ude00"}',
        b'{"text": "\\ud83d"}',
        b'{"text": "a", "x": "\\ude00"}',
        b'{"text": "a", "x": NaN, "y": -Infinity}',
        b'{"text": "a", "x": 01}',
        b'{"text": "a", "x": "\\q"}',
        b'{"text": "a", "x": "\x01"}',
        b'{"text": "\x01"}',
        b'{"text": "a", "x": "\xff"}',
        b'{"text": "\xff"}',
        b'{"\xff": 1, "text": "a"}',
        b'{"text": "a",}',
        b'{"text": "a"}\x00',
        b'{"text": "a", "x": 1e999}',
        b"[" * 200_000,
    ]
)
LINES = st.lists(st.tuples(SPELLED | ODD, st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n"])), max_size=6)


def read(data: bytes, field: str = "text") -> tuple[list[str], Rejects]:
    rejects = Rejects("skip", logged_per_reason=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(data)
        file = SourceFile(str(path), "jsonl", "", field, "")
        texts = documents_of(json_lines.read(file, 0, len(data), rejects))
    return texts, Rejects("skip", rejects.empty, rejects.skipped, [anonymous(place) for place in rejects.places])


def anonymous(place: Any) -> Any:
    """Without the folder, which is another each time."""
    return (place.where.rpartition(":")[2], place.reason, place.found)


def line_by_line(read: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FieldDecoder, "values", lambda self, data: None)
        return read()


@settings(max_examples=150, deadline=None)
@given(LINES, st.booleans(), st.sampled_from(["text", "a.text"]))
@example([(b'{"text":', b"\n"), (b'"a"}', b"\n"), (b'{"text": "b"}{"text": "c"}', b"\n")], True, "text")
@example([(b'{"text": "a"} {"text": "b"}', b"\n\n")], True, "text")
@example([(b'{"text": "a", "x": [{}', b"\n"), (b"{}]}", b"\n")], True, "text")
def test_read_at_once_equals_read_line_by_line(lines: list[tuple[bytes, bytes]], ended: bool, field: str) -> None:
    data = b"".join(part for line in lines for part in line)
    data = data if ended else data.removesuffix(b"\n")
    assert read(data, field) == line_by_line(lambda: read(data, field))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 60), st.integers(0, 60))
def test_read_of_damaged_lines_equals_read_line_by_line(noise: bytes, start: int, removed: int) -> None:
    whole = b'{"text": "a\\n", "x": [1, {"y": "\\u00e9"}]}\n{"x": "z", "text": "b\xe4\xb8\x89"}\n{"text": ""}\n'
    data = whole[:start] + noise + whole[start + removed :]
    assert read(data) == line_by_line(lambda: read(data))


def test_good_lines_are_decoded_at_once() -> None:
    data = '{"text": "a", "a": {"b": "三"}}\n{"text": "", "a": {"b": "c"}}'.encode()
    assert FieldDecoder("text").values(data) == ["a", ""]
    assert FieldDecoder("a.b").values(data + b"\n") == ["三", "c"]
    assert FieldDecoder("text").values(data.replace(b"\n", b"\r\n")) == ["a", ""]


@pytest.mark.parametrize(
    "data", [b'{"text": "a"}\n\n{"text": "b"}\n', b'{"text":\n"a"}', b'{"text": "a"}{"text": "b"}']
)
def test_lines_that_are_not_one_object_each_are_not_decoded_at_once(data: bytes) -> None:
    assert FieldDecoder("text").values(data) is None


def test_place_of_a_document_is_its_line(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b'{"text": "a"}\n{"text": ""}\n{"text": "b"}\n')
    file = SourceFile(str(path), "jsonl", "", "text", "")
    (batch,) = json_lines.read(file, 0, path.stat().st_size, Rejects("fail"))
    assert isinstance(batch, TextBatch)
    assert batch.place is not None
    assert [batch.place(i) for i in range(2)] == [f"{path}:1", f"{path}:3"]


@given(st.lists(st.sampled_from([b"{}", b"{", b"}", b"a", b"\n", b"\r\n", b"}\n{", b"}\r\n{", b"\r"]), max_size=9))
def test_lines_counted_by_search_are_those_counted_by_array(parts: list[bytes]) -> None:
    data = b"{" + b"".join(parts)
    assert json_lines._counted_by_search(data) == json_lines._counted_by_array(data)
