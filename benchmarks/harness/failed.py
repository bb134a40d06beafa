"""Failures of arms: noted with their reason, so that one of them does not throw away what the others gave."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

Failed = dict[str, list[str]]
"""By arm, the reason of each failure."""
# AssertionError: what the tests' helpers raise at a deadline.
_FAILURES = (RuntimeError, OSError, ValueError, AssertionError, subprocess.SubprocessError)
REASON_LENGTH = 300
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/]+/)+")


@contextmanager
def recorded(failed: Failed, arm: str) -> Iterator[None]:
    """Note a failure of the block under the arm's name; the command's exit status tells of it in the end."""
    try:
        yield
    except _FAILURES as error:
        logger.exception("%s failed", arm)
        failed.setdefault(arm, []).append(reason_of(error))


def reason_of(error: BaseException) -> str:
    """The first line of an error and the last, which of a program's output tells most, in one line without markup and
    without this machine's folders."""
    lines = [line.strip(" :") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0][: REASON_LENGTH // 2]} ... {lines[-1]}"
    return _FOLDERS.sub("", text)[:REASON_LENGTH].replace("|", "/").replace("`", "'")


def all_failed(results: Mapping[str, Any]) -> list[str]:
    """Every failure that stands anywhere in the results, as `arm: reason`. Pure."""
    found: list[str] = []
    for key, value in results.items():
        if key == "failed":
            found += [f"{arm}: {reason}" for arm, reasons in value.items() for reason in reasons]
        elif isinstance(value, Mapping):
            found += all_failed(value)
    return found


def told(part: Mapping[str, Any]) -> list[str]:
    """Markdown lines that tell the failures of a part of the results. Pure."""
    failed: Mapping[str, list[str]] = part.get("failed", {})
    listed = [f"- **{arm} failed**: `{reason}`" for arm, reasons in failed.items() for reason in reasons]
    return ["", *listed] if listed else []
