"""Bytes to text, strictly: what is no UTF-8 is a bad record with its place."""

from collections.abc import Callable

from data_shards.rejects import Rejects

Where = Callable[[int], str]
"""Names the i-th line of a record, from 0."""


def decode(data: bytes, where: Where, rejects: Rejects, line: int = 0, column: int = 0) -> str | None:
    """The text, or None if the record is rejected. It starts at `line` of its record, after `column` bytes of that."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start)  # -1 if the line began before
        byte = error.start - line_start + (column if line_start < 0 else 0)
        found = data[error.start : error.end].hex()
        rejects.reject(
            "invalid UTF-8",
            where(line + data.count(b"\n", 0, error.start)),
            f"byte {byte} of the line, 0x{found} ({error.reason})",
        )
        return None
