from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import gang_meeting
from cluster.gang_meeting import Meeting


def test_meeting_all_ranks_have_the_address_of_rank_0() -> None:
    first, second = Meeting(), Meeting()
    with ThreadPoolExecutor(2) as pool:
        told = pool.submit(first.tell, lambda: True)
        heard = pool.submit(second.share, None)
        assert first.share(("10.0.0.1", 7)) == ("10.0.0.1", 7)
        second.hear(told.result(timeout=10))
        assert heard.result(timeout=10) == ("10.0.0.1", 7)


def test_meeting_rank_0_that_ends_first_is_told_to_the_others() -> None:
    first, second = Meeting(), Meeting()
    second.hear(first.tell(lambda: False))
    with pytest.raises(ConnectionError, match="rank 0 ended"):
        second.share(None)


def test_meeting_rank_0_that_ends_with_an_address_has_told_it() -> None:
    first = Meeting()
    first.share(("10.0.0.1", 7))
    assert first.tell(lambda: False) == ("10.0.0.1", 7)


def test_meeting_without_a_word_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang_meeting, "MEETING_SECONDS", 0.01)
    with pytest.raises(ConnectionError, match="no word"):
        Meeting().share(None)
