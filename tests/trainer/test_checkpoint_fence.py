"""What an attempt writes after a newer one went on from an earlier step never counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.checkpoint_world import checkpoint_folder, save
from trainer.attempts import newest_attempt, take_attempt
from trainer.checkpoint.fence import check_fence, is_believed, note_resumed, resumed_steps
from trainer.checkpoint.retention import prune
from trainer.checkpoint.store import list_checkpoints, newest_good
from trainer.errors import FencedError


@given(attempt=st.integers(1, 5), step=st.integers(0, 9), resumed=st.dictionaries(st.integers(1, 5), st.integers(0, 9)))
def test_is_believed_looks_at_later_attempts_alone(attempt: int, step: int, resumed: dict[int, int]) -> None:
    later = [went_on_from for other, went_on_from in resumed.items() if other > attempt]
    assert is_believed(attempt, step, resumed) == (step <= min(later, default=step))


def test_note_resumed_keeps_the_lowest_step_of_an_attempt_and_takes_no_number(tmp_path: Path) -> None:
    first, second = take_attempt(tmp_path), take_attempt(tmp_path)
    note_resumed(tmp_path, first, 0)
    for step in (400, 300, 350):
        note_resumed(tmp_path, second, step)
    assert resumed_steps(tmp_path) == {1: 0, 2: 300}
    assert newest_attempt(tmp_path) == 2


def test_check_fence_refuses_an_older_attempt(tmp_path: Path) -> None:
    check_fence(tmp_path, 1)
    take_attempt(tmp_path)
    check_fence(tmp_path, 1)
    take_attempt(tmp_path)
    check_fence(tmp_path, 2)
    with pytest.raises(FencedError, match=f"{tmp_path}: attempt 1"):
        check_fence(tmp_path, 1)


@pytest.fixture
def _no_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.checkpoint.save._remove_old", lambda task: None)


@pytest.mark.usefixtures("_no_retention")
def test_newest_good_never_takes_what_an_older_attempt_wrote_late(tmp_path: Path) -> None:
    """The older attempt looked for a newer one, was stopped before its rename, and was woken up afterwards."""
    save(tmp_path, step=200)
    note_resumed(tmp_path, 2, 200)
    save(tmp_path, step=300)
    choice = newest_good(tmp_path)
    assert choice is not None
    assert (choice.manifest.step, choice.skipped) == (200, ())
    assert [(entry.step, entry.is_believed) for entry in list_checkpoints(tmp_path)] == [(200, True), (300, False)]
    save(tmp_path, step=250, attempt=2)
    choice = newest_good(tmp_path)
    assert choice is not None
    assert choice.manifest.step == 250


@pytest.mark.usefixtures("_no_retention")
def test_newest_good_of_late_checkpoints_alone_is_none(tmp_path: Path) -> None:
    note_resumed(tmp_path, 2, 0)
    save(tmp_path, step=100)
    assert newest_good(tmp_path) is None


@pytest.mark.usefixtures("_no_retention")
def test_prune_removes_what_does_not_count_and_keeps_two_that_do(tmp_path: Path) -> None:
    for step in (100, 200):
        save(tmp_path, step=step, keep=9)
    note_resumed(tmp_path, 2, 200)
    save(tmp_path, step=300, keep=9)
    assert prune(tmp_path, keep=2, attempt=2) == ["step-00000300"]
    assert not checkpoint_folder(tmp_path, 300, 1).exists()
    assert [entry.step for entry in list_checkpoints(tmp_path)] == [100, 200]
