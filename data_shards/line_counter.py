"""Line numbers, counted only when a message needs one."""

from __future__ import annotations

from dataclasses import dataclass

from data_shards.sources import SourceFile, read_chunks
from data_shards.utf8 import Where


@dataclass
class LineCounter:
    """Names lines of a file by their number in a piece of it that starts at byte `start`."""

    file: SourceFile
    start: int
    before: int | None = None

    def at(self, record: int) -> Where:
        """Names the i-th line of a record that starts at line `record` of the piece."""
        return lambda inner: self.where(record + inner)

    def where(self, number: int) -> str:
        """File and line of the piece's line `number`, from 0."""
        if self.before is None:
            earlier = read_chunks(self.file.path, "", 0, self.start) if self.start else ()
            self.before = sum(chunk.count(b"\n") for chunk in earlier)
        return f"{self.file.path}:{self.before + number + 1}"
