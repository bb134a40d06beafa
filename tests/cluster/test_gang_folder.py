from __future__ import annotations

from pathlib import Path

import pytest

from cluster.gang_folder import GangFolder, Place, Verdict, new_gang_folder

FIRST = Place(0, "aa", "10.0.0.1", 11)
SECOND = Place(1, "bb", "10.0.0.2", 22)


def test_folder_gives_back_places_by_rank_and_the_verdict(tmp_path: Path) -> None:
    folder = new_gang_folder(tmp_path, "one")
    assert (folder.places(), folder.verdict()) == ((), None)
    for place in (SECOND, FIRST):
        folder.write_place(place)
    verdict = Verdict("failed", "loss", "lost rank 1", 1)
    folder.write_verdict(verdict)
    opened = GangFolder(folder.path)
    assert opened.places() == (FIRST, SECOND)
    assert opened.verdict() == verdict


def test_late_word_of_an_older_gang_is_refused(tmp_path: Path) -> None:
    older = new_gang_folder(tmp_path, "older")
    newer = new_gang_folder(tmp_path, "newer")
    with pytest.raises(OSError):
        older.write_verdict(Verdict("finished"))
    assert newer.verdict() is None


def test_folder_that_is_removed_leaves_nothing(tmp_path: Path) -> None:
    folder = new_gang_folder(tmp_path, "one")
    folder.write_place(FIRST)
    folder.remove()
    assert not folder.path.exists()
    assert (folder.places(), folder.verdict()) == ((), None)


def test_place_that_goes_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    folder = new_gang_folder(tmp_path, "one")
    folder.write_place(FIRST)
    (folder.path / "rank-0001.json").symlink_to("gone")
    assert folder.places() == (FIRST,)
