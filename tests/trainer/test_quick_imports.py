from __future__ import annotations

import gc

import pytest

from trainer.quick_imports import collector_at_rest


def test_collector_rests_in_the_block_and_works_after_it() -> None:
    with collector_at_rest():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_collector_works_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), collector_at_rest():
        raise ImportError("no such module")
    assert gc.isenabled()
    gc.unfreeze()
