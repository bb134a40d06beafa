import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_shards import json_stream, long_text
from data_shards.batches import text_batches
from data_shards.json_stream import json_document
from data_shards.rejects import Rejects
from tests.data_shards.reading import documents_of

TEXT = st.text(max_size=10) | st.sampled_from(['"', "\\", "a\U0001f600b", "one two three four five", "\x00\x1f\x7f"])
VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(["a", "b"]), inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, VALUE, max_size=3).flatmap(
    lambda rest: st.fixed_dictionaries({"a": TEXT | st.fixed_dictionaries({"b": TEXT | VALUE}) | VALUE}).map(
        lambda wanted: {**rest, **wanted}
    )
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (json_stream, long_text):
        monkeypatch.setattr(module, "PART_BYTES", 16)


def read(pieces: list[bytes], field: str = "a") -> tuple[list[str], Rejects]:
    rejects = Rejects("skip", logged_per_reason=0)
    parts = json_document(iter(pieces), field, lambda line: f"f:{line + 1}", rejects)
    return documents_of(text_batches(parts)), rejects


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def expected(data: bytes, field: str) -> str | None:
    """The value if there is one that is text, as `json.loads` has it."""
    value = json.loads(data)
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and not any("\ud800" <= mark <= "\udfff" for mark in value) else None


def test_streamed_value_is_that_of_the_whole_line() -> None:
    @settings(max_examples=150, deadline=None)
    @given(OBJECT, st.booleans(), st.sampled_from([None, 1, "\t"]), st.integers(1, 20), st.sampled_from(["a", "a.b"]))
    @example({"a": "\U0001f600" * 9}, True, None, 5, "a")
    @example({"a": "\ud83d"}, True, None, 5, "a")
    def check(record: Any, is_ascii: bool, indent: Any, size: int, field: str) -> None:
        data = json.dumps(record, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "ignore") + b"\r\n"
        texts, rejects = read(pieces_of(data, size), field)
        value = expected(data, field)
        assert texts == ([value] if value else [])
        assert (rejects.empty, rejects.skipped.total()) == (value == "", value is None)

    check()


@pytest.mark.parametrize(
    ("data", "field", "texts"),
    [
        (b'{"a": "one two three four five", "a": "six"}', "a", ["six"]),
        (b'{"a": 1, "a": "six"}', "a", ["six"]),
        (b'{"a": {"b": "one two three four five"}, "a": {"b": "six"}}', "a.b", ["six"]),
        (b'{"a": {"b": "one two three four five"}, "a": {"c": "six"}}', "a.b", []),
        (b'{"a": "one two three four five", "a": null}', "a", []),
        (b'{"x": [[{}, "]"], {"a": "}"}], "a": "y"}', "a", ["y"]),
        (b'{"\\u0061": "y"}', "a", ["y"]),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_of_a_name_that_comes_twice_the_last_value_counts(data: bytes, field: str, texts: list[str], size: int) -> None:
    found, rejects = read(pieces_of(data, size), field)
    assert found == texts
    assert rejects.skipped.total() == 1 - len(texts)


@pytest.mark.parametrize(
    ("data", "reason", "found"),
    [
        (b'{"a": "one two three four five"', "not JSON", "Expecting ','"),
        (b'{"a": "one two three four five', "not JSON", "in a string at byte 30: the end of the line"),
        (b'{"a": "one two three four five"} x', "not JSON", "Extra data: at byte 33: x"),
        (b'{"a": "one two three four five",}', "not JSON", "a comma before at byte"),
        (b'{"a": "one two three \\qour five"}', "not JSON", "Invalid character or escape"),
        (b'{"a": "one two three \x01our five"}', "not JSON", "Invalid character or escape"),
        (b'{"a": "one two three four five", "x": 01}', "not JSON", "Expecting value: 01"),
        (b'{"a": "one two three four five", "x": tru}', "not JSON", "Expecting value: tru"),
        (b'{"a": "one two three four five", "x": [}', "not JSON", "brackets that do not match"),
        (b'{"a": "one two three four five", "x": [{"y": ', "not JSON", "ends within brackets"),
        (b'{"a": "one two three four five", x: 1}', "not JSON", "Expecting '\"'"),
        (b'{"a": "one two three four \xff"}', "invalid UTF-8", "0xff"),
        (b'{"a": "one two three four five", "x": "\xe4\xb8"}', "invalid UTF-8", "0xe4b8"),
        (b'{"a": "one two three \\ud800 four five"}', "field a holds half a surrogate pair", "ud800"),
        (b'["one two three four five"]', "not a JSON object", "at byte 0: ["),
        (b'{"b": "one two three four five"}', "no field a", "more than 16 bytes"),
        (b'{"a": ["one two three four five"]}', "field a is no string", "at byte 6: ["),
        (b'{"' + b"one two" * 10_000 + b'": 1}', "not read", "a field's name"),
        (b'{"x": ' + b"[" * 2000, "not JSON", "more than 1000 brackets"),
    ],
)
@pytest.mark.parametrize("size", [1, 9, 5_000])
def test_bad_line_is_rejected_as_a_whole(data: bytes, reason: str, found: str, size: int) -> None:
    texts, rejects = read([*pieces_of(data, size), b"\n"])
    assert texts == []
    (place,) = rejects.places
    assert (place.where, place.reason) == ("f:1", reason)
    assert found in place.found
