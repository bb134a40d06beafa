"""Remembers how files were cut and hashed, so that a second run need not read the corpus."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_shards.errors import DataError
from data_shards.files import write_atomically
from data_shards.manifest import FORMAT_VERSION
from data_shards.sources import SourceFile
from data_shards.units import Piece, cut_file

CACHE_FILE = ".sources-cache.json"


class SourceCache:
    """Pieces of files by path, size and time of change; hold it over one prepare."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[str, Any] = _load(path)
        self._used: dict[str, Any] = {}
        self._stamps: dict[str, list[int]] = {}

    @property
    def changed(self) -> bool:
        """Whether `save` would change the file."""
        return self._used != self._kept

    def cut(self, file: SourceFile, unit_bytes: int) -> tuple[Piece, ...]:
        """As `units.cut_file`, but reads only files that are new or changed."""
        stamp = self._stamps.setdefault(file.path, _stamp(file.path))
        question = [FORMAT_VERSION, stamp, asdict(file), unit_bytes]
        key = json.dumps(question, sort_keys=True)
        if key in self._kept:
            rows: list[Any] = self._kept[key]
        else:
            rows = [[p.start, p.end, p.sha256, p.text_bytes] for p in cut_file(file, unit_bytes)]
            self._refuse_changed(file.path)
        self._used[key] = rows
        return tuple(Piece(file, *row) for row in rows)

    def changed_files(self) -> frozenset[str]:
        """Paths of files that are no longer as they were when `cut` looked at them first."""
        return frozenset(path for path, stamp in self._stamps.items() if _stamp(path) != stamp)

    def save(self) -> None:
        """Keep what this run used."""
        if self.changed:
            write_atomically(self.path, json.dumps(self._used, indent=0, sort_keys=True).encode())
            self._kept = dict(self._used)

    def _refuse_changed(self, path: str) -> None:
        if _stamp(path) != self._stamps[path]:
            raise DataError(f"{path}: changed while it was being read: run prepare again when it is complete")


def _load(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # absent or torn: the files are read again
    return kept if isinstance(kept, dict) else {}


def _stamp(path: str) -> list[int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): correct or leave out the file") from error
    return [status.st_size, status.st_mtime_ns]
