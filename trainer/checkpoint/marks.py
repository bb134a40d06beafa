"""The mark that a rank leaves in a checkpoint's folder once its file is safe; rank 0 waits for those of all ranks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from trainer.checkpoint.manifest import FileRecord, Header, digest_of, record_from_dict, record_to_dict
from trainer.checkpoint.storage import Storage
from trainer.errors import TrainError


class SaveCancelledError(RuntimeError):
    """The save was given up because another rank could not write its part."""


def mark_name(rank: int, world_size: int) -> str:
    """Name of a rank's mark within a checkpoint."""
    return f"rank-{rank:05d}-of-{world_size:05d}.done.json"


def render_mark(header: Header, number: int, record: FileRecord) -> bytes:
    """A mark as JSON text, with its own hash. `number` counts the attempt's saves: a step may be saved twice."""
    body = {"attempt": header.attempt, "step": header.step, "save": number, "record": record_to_dict(record)}
    body = json.loads(json.dumps(body))
    return json.dumps({**body, "sha256": digest_of(body)}).encode()


def parse_mark(text: bytes, header: Header, number: int, where: str) -> FileRecord | None:
    """The file's record in a mark of this save; None for the mark of an earlier one.

    Raises TrainError, naming `where`, if the mark is damaged.
    """
    try:
        body: dict[str, Any] = json.loads(text)
        if body.pop("sha256") != digest_of(body):
            raise ValueError("it does not match its own hash")
        if (body["attempt"], body["step"], body["save"]) != (header.attempt, header.step, number):
            return None
        return record_from_dict(body["record"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"{where}: the mark of a rank's file is damaged ({error}); the save is given up") from error


def wait_for_marks(
    storage: Storage,
    folder: str,
    header: Header,
    number: int,
    *,
    deadline_seconds: float,
    pause: Callable[[float], bool],
) -> list[FileRecord]:
    """The records of all ranks' files in rank order, once every rank has left its mark.

    `pause(seconds)` waits, and says whether the save was given up meanwhile.

    Raises:
        SaveCancelledError: it was.
        TimeoutError: a mark did not come in time; the message names it.
        TrainError: a mark is damaged.
    """
    deadline = time.monotonic() + deadline_seconds
    records: list[FileRecord] = []
    while len(records) < header.world_size:
        name = f"{folder}/{mark_name(len(records), header.world_size)}"
        text = storage.read(name)
        record = None if text is None else parse_mark(text, header, number, f"{storage.address}/{name}")
        if record is not None:
            records.append(record)
        elif time.monotonic() > deadline:
            raise TimeoutError(
                f"{storage.address}/{name}: rank {len(records)} did not write it in {deadline_seconds} s"
            )
        elif pause(storage.poll_seconds):
            raise SaveCancelledError(f"{storage.address}/{folder}: another rank could not write its part")
    return records
