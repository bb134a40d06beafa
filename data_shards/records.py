"""What is text in a record of a task, and what it is held out by. Pure functions."""

import json
from collections.abc import Sequence
from typing import Any

from data_shards.task_settings import TaskKind
from data_shards.units import split_hash


def record_texts(kind: TaskKind, row: Sequence[Any]) -> list[str]:
    """The texts in a record, as far as they are such."""
    if kind == "chat":
        messages = row[0] if isinstance(row[0], list) else []
        found = [message.get("content") for message in messages if isinstance(message, dict)]
    else:
        found = list(row[1:] if kind == "class" else row)
    return [text for text in found if isinstance(text, str)]


def record_hash(kind: TaskKind, row: Sequence[Any]) -> int:
    """What a record is held out by: all its fields, but of a classification the texts alone, so that a text with two
    labels is on one side."""
    held = list(row[1:] if kind == "class" else row)
    return split_hash(json.dumps(held, sort_keys=True, default=str).encode())
