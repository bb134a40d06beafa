"""Rank 0 waits for every rank's mark of this very save, and never for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.checkpoint_world import header, save, task
from trainer.checkpoint.fragments import Span
from trainer.checkpoint.manifest import FileRecord, SavedSpan
from trainer.checkpoint.marks import SaveCancelledError, mark_name, parse_mark, render_mark, wait_for_marks
from trainer.checkpoint.save import save_checkpoint, write_part
from trainer.checkpoint.store import list_checkpoints
from trainer.errors import TrainError

RECORD = FileRecord("rank-00000-of-00002.safetensors", 0, 12, "xxh3-128:ab", (SavedSpan(Span("a", 0, 3), 2.0),))


def test_mark_round_trip_and_another_saves_mark_is_none() -> None:
    text = render_mark(header(), 4, RECORD)
    assert parse_mark(text, header(), 4, "m") == RECORD
    assert parse_mark(text, header(), 5, "m") is None
    assert parse_mark(text, header(attempt=2), 4, "m") is None
    assert parse_mark(text, header(step=201), 4, "m") is None


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_mark_with_a_bit_flipped_is_refused_or_the_same(position: int, bit: int) -> None:
    text = bytearray(render_mark(header(), 1, RECORD))
    text[position % len(text)] ^= 1 << bit
    try:
        assert parse_mark(bytes(text), header(), 1, "some/mark") == RECORD  # a space that became another one
    except TrainError as error:
        assert "some/mark" in str(error)


def test_save_with_a_damaged_mark_is_given_up(tmp_path: Path) -> None:
    first, second = task(tmp_path), task(tmp_path, rank=1)
    save_checkpoint(second)
    mark = tmp_path / "checkpoints" / second.folder / mark_name(1, 2)
    mark.write_bytes(mark.read_bytes().replace(b'"rank":', b'"rink":'))
    with pytest.raises(TrainError, match=r"done\.json: the mark of a rank's file is damaged"):
        save_checkpoint(first)
    assert list_checkpoints(tmp_path) == []


def test_save_does_not_take_the_mark_of_an_earlier_save_of_the_step(tmp_path: Path) -> None:
    save(tmp_path, step=100, number=1)
    again = task(tmp_path, step=100, number=2)
    again.cancelled.set()
    with pytest.raises(SaveCancelledError):
        save_checkpoint(again)
    assert list_checkpoints(tmp_path) == []


def test_wait_for_marks_ends_at_its_deadline_and_names_the_mark(tmp_path: Path) -> None:
    first = task(tmp_path)
    storage = first.open()
    write_part(storage, first)
    with pytest.raises(TimeoutError, match=r"rank-00001-of-00002\.done\.json"):
        wait_for_marks(storage, first.folder, first.header, 1, deadline_seconds=0.05, pause=lambda seconds: False)
