from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ModelError
from model.text_stream import TextStream

TEXT = "naïve 三国 \U0001f600 end"


def decode_bytes(ids: Sequence[int]) -> str:
    """A byte-level tokenizer whose tokens are single bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def decode_words(ids: Sequence[int]) -> str:
    """One that strips the space with which a text begins, as Llama's does."""
    return "".join(f" {'abcdefgh'[i]}" for i in ids).removeprefix(" ")


def told(stream: TextStream, ids: Sequence[int]) -> list[str]:
    return [*(stream.push(token) for token in ids), stream.close()]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=30), prompt=st.text(max_size=5))
def test_stream_adds_up_to_the_whole_text_whatever_the_bytes(data: bytes, prompt: str) -> None:
    pieces = told(TextStream(decode_bytes, list(prompt.encode())), list(data))
    assert "".join(pieces) == decode_bytes(list(data))


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=12))
def test_stream_never_splits_a_character(text: str) -> None:
    stream = TextStream(decode_bytes)
    pieces = [stream.push(byte) for byte in text.encode()]
    ends = [len(text[:i].encode()) for i in range(len(text) + 1)]
    for number, piece in enumerate(pieces, 1):
        assert bool(piece) == (number in ends) or "\ufffd" in text
    assert "".join(pieces) + stream.close() == text


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab三", max_size=20),
    stops=st.lists(st.text(alphabet="ab三", min_size=1, max_size=4), max_size=3),
)
def test_stream_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    """Tokens are bytes, so every stop string lies over the borders of tokens."""
    stream = TextStream(decode_bytes, (), stops)
    pieces: list[str] = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.is_stopped:
            break
    pieces.append(stream.close())
    # The first to be complete counts; of several complete at once the one that begins first.
    complete = [end for end in range(len(text) + 1) if any(stop in text[:end] for stop in stops)]
    seen = text[: complete[0]] if complete else text
    wanted = min((seen.find(stop) for stop in stops if stop in seen), default=len(text))
    assert "".join(pieces) == text[:wanted]
    assert stream.is_stopped == bool(complete)


def test_stream_holds_back_only_what_may_begin_a_stop_string() -> None:
    stream = TextStream(decode_bytes, (), ["\n\nQ:"])
    assert [stream.push(byte) for byte in b"A\nB\n\nZ\n\nQ:!"] == [
        "A", "", "\nB", "", "", "\n\nZ", "", "", "", "", ""
    ]  # fmt: skip
    assert stream.is_stopped
    assert stream.close() == ""


def test_stream_goes_on_from_the_prompt_as_the_decoder_does() -> None:
    assert told(TextStream(decode_words, [0, 1]), [2, 3]) == [" c", " d", ""]
    assert told(TextStream(decode_words), [2, 3]) == ["c", " d", ""]


def test_stream_shows_an_unfinished_character_at_the_end() -> None:
    assert told(TextStream(decode_bytes), list("三".encode())[:2]) == ["", "", "\ufffd"]


def test_stream_refuses_an_empty_stop_string() -> None:
    with pytest.raises(ModelError, match="a stop string is empty"):
        TextStream(decode_bytes, (), ["a", ""])
