"""One save under way: every rank writes in the background, and at step borders all learn together how it went."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

import torch
import torch.distributed as dist

from data_shards.errors import DataError
from trainer.checkpoint.marks import SaveCancelledError
from trainer.checkpoint.save import SaveResult, SaveTask
from trainer.checkpoint.writer import start_removal, start_save
from trainer.collectives import gather_to_all, reduce_sum
from trainer.errors import FencedError, SaveFailedError

LATE_SECONDS = 15.0
LATE_WHEN_DUE_SECONDS = 1.0


class BackgroundSave:
    """A save from its start to its end, good or bad. All ranks call `settle` together."""

    def __init__(self, task: SaveTask, copy: Callable[[], None], began: float) -> None:
        """copy: fills the task's snapshot; began: in monotonic seconds, when the loop began to wait for this."""
        self.task = task
        self.step = task.header.step
        self.failure: str | None = None
        """Where and why it failed, alike on all ranks; None while it is under way and after a good end."""
        self._began = began
        self._copied = threading.Event()
        self._saving = start_save(task, copy, self._copied)
        self._held_seconds = 0.0
        self._stall_seconds = time.monotonic() - began
        self._removal: Future[None] | None = None
        self._is_told_late = False

    @property
    def _work(self) -> Future[Any]:
        return self._removal or self._saving

    @property
    def age_seconds(self) -> float:
        """Seconds since the loop asked for it."""
        return time.monotonic() - self._began

    def hold_still(self) -> None:
        """Wait until the copy is made, before anything is changed of what is copied."""
        if not self._copied.is_set():
            began = time.monotonic()
            self._copied.wait()
            self._held_seconds += time.monotonic() - began

    def wait(self, seconds: float) -> None:
        """Wait until this rank's part is over, for so long at most."""
        wait([self._work], timeout=seconds)

    def settle(self, device: torch.device) -> bool:
        """Whether the save is over on all ranks; a failed one once its remains are removed.

        Raises:
            FencedError: a newer attempt has begun.
            SaveFailedError: not storage but a fault of the program ended it; the rank where it was raises its error.
        """
        work, is_over = self._work, self._work.done()  # looked at once: it may end at any moment
        error = work.exception() if is_over else None
        settled, failed = reduce_sum([float(is_over), float(error is not None)], device)
        if failed:
            self.task.cancelled.set()
        if settled < dist.get_world_size():
            return False
        if not failed:
            return True
        self.failure = _verdict(error)
        self._removal = start_removal(self.task) if self.task.rank == 0 else _done()
        return False

    def late_event(self, is_next_due: bool) -> dict[str, Any] | None:
        """Once per save: the event that it takes long, said sooner where the next one is due already."""
        limit_seconds = LATE_WHEN_DUE_SECONDS if is_next_due else LATE_SECONDS
        if self._is_told_late or self.age_seconds < limit_seconds:
            return None
        self._is_told_late = True
        return {"event": "checkpoint_late", "step": self.step, "seconds": self.age_seconds}

    def end_event(self) -> dict[str, Any]:
        """The event of a save that is over."""
        if self.failure is not None:
            return {"event": "checkpoint_failed", "step": self.step, "reason": self.failure}
        result: SaveResult = self._saving.result()
        return {
            "event": "checkpoint",
            "step": self.step,
            "path": result.address,
            "bytes": result.bytes,
            "seconds": self._stall_seconds + result.seconds,
            "stall_seconds": self._stall_seconds,
            "held_seconds": self._held_seconds,
            "written_seconds": result.seconds,
        }


def _verdict(error: BaseException | None) -> str:
    """Why the save failed, of all ranks' errors. Raises where it was not storage that failed."""
    told: list[Mapping[str, str]] = [told for told in gather_to_all(_describe(error)) if told]
    for name, exception in (("program", SaveFailedError), ("fenced", FencedError)):
        texts = [one["text"] for one in told if one["kind"] == name]
        if texts:
            raise exception(texts[0]) from error
    return next(one["text"] for one in told if one["kind"] == "storage")


def _describe(error: BaseException | None) -> dict[str, str]:
    """Kind and text of one rank's error; nothing where it has none, or one that only follows from another's."""
    match error:
        case None | SaveCancelledError():
            return {}
        case FencedError():
            return {"kind": "fenced", "text": str(error)}
        case OSError() | DataError():
            return {"kind": "storage", "text": _reason(error)}
        case _:
            return {"kind": "program", "text": f"rank {dist.get_rank()} could not save: {error!r}"}


def _reason(error: OSError | DataError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error)


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future
