from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_shards import long_text
from data_shards.batches import PART_BYTES, TextBatch
from data_shards.encoder import exact_flat
from data_shards.long_text import BORDER, cut, document_batches, long_document
from data_shards.rejects import Rejects
from tests.data_shards.byte_level import PRE_TOKENIZERS, TEXTS, trained
from tests.data_shards.reading import documents_of

PLAIN = (
    "a|Word|don't|I'M|'s| |  |\n|\r\n|\t|12|1234|.|,|(x)|--|三国|，|。|naï|e\u0301|\U0001f600|½|_|</s>|?!|：|ひら|мир"
)
WORDS = st.sampled_from([*PLAIN.split("|"), "\u3000", "\x1c", "\u2028", "\x00", "|"])
TEXT = st.lists(WORDS, max_size=40).map("".join)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "PART_BYTES", 12)


def parts_of(pieces: list[bytes], part_bytes: int) -> tuple[list[tuple[bytes, bool]], int]:
    """The parts, and how many of them end without a border."""
    cuts = 0

    def note_cut() -> None:
        nonlocal cuts
        cuts += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "PART_BYTES", part_bytes)
        return list(cut(pieces, note_cut)), cuts


@settings(max_examples=300)
@given(TEXT, st.integers(4, 40), st.integers(1, 50))
def test_cut_depends_on_the_text_alone(text: str, part_bytes: int, piece_bytes: int) -> None:
    data = text.encode()
    parts, cuts = parts_of([data], part_bytes)
    assert (parts, cuts) == parts_of([data[i : i + piece_bytes] for i in range(0, len(data), piece_bytes)], part_bytes)
    assert b"".join(part for part, _ in parts) == data
    assert all(0 < len(part) <= part_bytes for part, _ in parts)
    assert [goes_on for _, goes_on in parts] == [True] * (len(parts) - 1) + [False] * bool(parts)
    assert "".join(part.decode() for part, _ in parts) == text


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_tokens_of_parts_are_those_of_the_whole(name: str) -> None:
    tokenizer = trained(PRE_TOKENIZERS[name])

    @settings(max_examples=150, deadline=None)
    @given(TEXT)
    @example("".join(TEXTS))
    def check(text: str) -> None:
        ends = [match.end() for match in BORDER.finditer(text)]
        pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
        assert exact_flat(tokenizer, pieces)[0].tolist() == exact_flat(tokenizer, [text])[0].tolist()

    check()


def test_cut_is_at_the_last_border_that_fits() -> None:
    assert parts_of([b"ab cd ef gh"], 8) == ([(b"ab cd", True), (b" ef gh", False)], 0)


def test_cut_without_a_border_is_between_characters_and_noted() -> None:
    data = ("\U0001f600" * 5).encode()
    assert parts_of([data], 10) == ([(data[:8], True), (data[8:16], True), (data[16:], False)], 2)


def test_cut_finds_a_border_far_from_the_end() -> None:
    data = b"a word " + b"x" * (PART_BYTES - 4)
    first, *_ = cut([data], pytest.fail)
    assert first == (b"a word", True)


def test_cut_after_the_first_border_is_forced_where_no_other_comes() -> None:
    parts, cuts = parts_of([b"a " + b"x" * 30], 16)
    assert ([part for part, _ in parts], cuts) == ([b"a", b" " + b"x" * 15, b"x" * 15], 1)


def documents(pieces: list[bytes], rejects: Rejects) -> list[str]:
    parts = long_document(iter(pieces), lambda line: f"f:{line + 1}", rejects)
    batches: Iterator[TextBatch] = long_text.text_batches(parts)  # type: ignore[assignment]
    return documents_of(batches)


@pytest.mark.usefixtures("small_parts")
def test_long_document_with_bad_bytes_is_withdrawn_and_placed() -> None:
    rejects = Rejects("skip")
    assert documents([b"one two\nthree four\nfi", b"ve \xe4\xb8 six"], rejects) == []
    (place,) = rejects.places
    assert (place.where, place.reason) == ("f:3", "invalid UTF-8")
    assert place.found.startswith("byte 6 of the line, 0xe4b8")


@pytest.mark.usefixtures("small_parts")
def test_long_document_in_one_line_counts_bytes_over_parts() -> None:
    rejects = Rejects("skip")
    assert documents([b"one two three four five \xff"], rejects) == []
    assert rejects.places[0].found.startswith("byte 25 of the line, 0xff")


@pytest.mark.usefixtures("small_parts")
def test_long_document_without_borders_is_whole_and_said(caplog: pytest.LogCaptureFixture) -> None:
    rejects = Rejects("fail")
    assert documents([b"x" * 30], rejects) == ["x" * 30]
    assert rejects.cuts == 2
    assert caplog.messages[0].startswith("f:1: 12 bytes without a border of words are cut")


@pytest.mark.usefixtures("small_parts")
def test_document_batches_cut_long_texts_alone() -> None:
    batches = list(document_batches(["ab", "cd ef gh ij kl", "mn"], lambda i: f"row {i}", Rejects("fail")))
    assert documents_of(batches) == ["ab", "cd ef gh ij kl", "mn"]
    assert [(batch.texts, batch.unfinished) for batch in batches if isinstance(batch, TextBatch)] == [
        (["ab", "cd ef gh"], True),
        ([" ij kl", "mn"], False),
    ]
    places = [batch.place(len(batch.texts) - 1) for batch in batches if isinstance(batch, TextBatch) and batch.place]
    assert places == ["row 1", "row 2"]
