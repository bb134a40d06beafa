"""A save copies in the background; what it copies is held still until then."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.trainer.checkpoint_world import task
from trainer.background_save import BackgroundSave

pytestmark = pytest.mark.timeout(60)


def test_save_holds_the_update_until_its_copy_is_made_and_tells_how_long(tmp_path: Path) -> None:
    go, order = threading.Event(), list[str]()

    def copy() -> None:
        assert go.wait(30)
        order.append("copied")

    save = BackgroundSave(task(tmp_path, world_size=1), copy, time.monotonic())
    held = threading.Thread(target=lambda: (save.hold_still(), order.append("updated")), daemon=True)
    held.start()
    assert order == []
    go.set()
    held.join(30)
    save.wait(30)
    assert order == ["copied", "updated"]
    event = save.end_event()
    assert event["event"] == "checkpoint"
    assert event["held_seconds"] > 0


def test_save_whose_copy_fails_lets_the_update_go_on(tmp_path: Path) -> None:
    def copy() -> None:
        raise MemoryError("no room")

    save = BackgroundSave(task(tmp_path, world_size=1), copy, time.monotonic())
    save.hold_still()
    save.wait(30)
    with pytest.raises(MemoryError, match="no room"):
        save.end_event()
    assert list(tmp_path.rglob("*.safetensors")) == []
