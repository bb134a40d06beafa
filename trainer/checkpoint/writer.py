"""The background thread of a save."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from data_shards.errors import DataError
from trainer.checkpoint.save import SaveResult, SaveTask, save_checkpoint

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


def start_save(task: SaveTask, copy: Callable[[], None], copied: threading.Event) -> Future[SaveResult]:
    """Copy what is saved and then save, in the background; the future has the result, or what either raised.

    copied: set once the copy is made, or has failed.
    """

    def save() -> SaveResult:
        try:
            copy()
        finally:
            copied.set()
        return save_checkpoint(task)

    return _in_background(save)


def start_removal(task: SaveTask) -> Future[None]:
    """Remove in the background what a save that failed has left; a storage that refuses that too is only warned of."""

    def remove() -> None:
        try:
            task.open().remove(task.folder)
        except (OSError, DataError) as error:
            _logger.warning("%s of a save that failed is still there: %s", task.folder, error)

    return _in_background(remove)


def _in_background(work: Callable[[], _Result]) -> Future[_Result]:
    """A daemon thread, unlike those of an executor, does not hold up the end of the process: storage may hang."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is raised again by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future
