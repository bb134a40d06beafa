import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_shards import regions, text_records
from data_shards.batches import TextBatch
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile
from data_shards.text_records import line_records, paragraphs, split_paragraphs, split_text_lines
from tests.data_shards.reading import documents_of

TEXT = st.text(st.sampled_from("ab\n\n\n\r三"), max_size=16)


@settings(max_examples=500)
@given(TEXT)
def test_lines_at_once_equal_lines_one_by_one(text: str) -> None:
    assert split_text_lines(text) == [record.decode() for _, record in line_records(text.encode())]


@settings(max_examples=500)
@given(TEXT)
@example("a\r\r\n\n\r\nb\r\n")
def test_paragraphs_at_once_equal_paragraphs_one_by_one(text: str) -> None:
    assert split_paragraphs(text) == [record.decode() for _, record in paragraphs(text.encode())]


def test_paragraphs_know_their_first_lines() -> None:
    assert list(paragraphs(b"\n\none\ntwo\r\n\r\n\nthree\n")) == [(2, b"one\ntwo"), (6, b"three")]


@pytest.mark.parametrize(("document", "lines"), [("line", [2, 3, 6, 7]), ("blank_line", [2, 6])])
def test_place_of_a_document_is_its_first_line(tmp_path: Path, document: str, lines: list[int]) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\none\ntwo\n\n\nthree\nfour\n")
    file = SourceFile(str(path), "text", "", "", document)
    found = []
    for batch in text_records.read(file, 0, path.stat().st_size, Rejects("fail")):
        assert isinstance(batch, TextBatch)
        assert batch.place is not None
        found += [batch.place(i) for i in range(len(batch.texts))]
    assert found == [f"{path}:{line}" for line in lines]


def read(data: bytes, document: str) -> tuple[list[str], Rejects]:
    rejects = Rejects("skip", logged_per_reason=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(data)
        file = SourceFile(str(path), "text", "", "", document)
        texts = documents_of(text_records.read(file, 0, len(data), rejects))
    places = [(place.where.rpartition(":")[2], place.reason, place.found) for place in rejects.places]
    return texts, Rejects("skip", rejects.empty, rejects.skipped, places)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"ab", b"abcdefgh", b"\n", b"\n\n", b"\r\n", b"\r", b"\xe4\xb8\x89", b"\xff"]), max_size=30
    ),
    st.sampled_from(["file", "line", "blank_line"]),
    st.integers(1, 7),
)
@example([b"\n", b"abcdefgh" * 8, b"\n\xff"], "blank_line", 5)
def test_long_records_in_pieces_are_those_that_are_held(pieces: list[bytes], document: str, chunk_bytes: int) -> None:
    data = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        whole = read(data, document)
        patch.setattr("data_shards.sources.CHUNK_BYTES", chunk_bytes)
        patch.setattr(regions, "HELD_BYTES", 12)
        for module in ("text_records", "long_text"):
            patch.setattr(f"data_shards.{module}.PART_BYTES", 10)
        in_pieces = read(data, document)
    assert in_pieces[0] == whole[0]
    assert in_pieces[1] == whole[1]
