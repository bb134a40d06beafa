"""Remembers how files were cut and hashed, so that a second run need not read the corpus."""

import json
from typing import Any

from data_shards.errors import DataError
from data_shards.manifest import FORMAT_VERSION
from data_shards.pieces import Piece, cut_file
from data_shards.source_files import FileState
from data_shards.sources import FoundFile, SourceFile, file_states
from data_shards.storage import Folder

CACHE_FILE = ".sources-cache.json"


class SourceCache:
    """Pieces of files by path, size and version; hold it over one prepare. Threads may `cut` at the same time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._kept: dict[str, Any] = _load(folder)
        self._used: dict[str, Any] = {}
        self._states: dict[SourceFile, FileState] = {}

    @property
    def changed(self) -> bool:
        """Whether `save` would change the file."""
        return self._used != self._kept

    def cut(self, found: FoundFile, unit_bytes: int) -> tuple[Piece, ...]:
        """As `pieces.cut_file`, but reads only files that are new or changed."""
        file, state = found.file, found.state
        self._states[file] = state
        manner = (file.format, file.compression, file.field, file.document, file.container, file.path)
        key = "\n".join((*manner, file.task) if file.task else manner)
        seen = [FORMAT_VERSION, state.size, state.version, unit_bytes]
        kept = self._kept.get(key)
        if state.version and isinstance(kept, list) and kept[:-1] == seen:
            rows: list[Any] = kept[-1]
        else:
            rows = [[piece.start, piece.end, piece.digest, piece.text_bytes] for piece in cut_file(found, unit_bytes)]
            self._refuse_changed(file)
        self._used[key] = [*seen, rows]
        return tuple(Piece(file, *row) for row in rows)

    def changed_files(self) -> frozenset[str]:
        """Paths of files that are no longer as they were when they were found."""
        now = file_states(self._states)
        return frozenset(file.path for file, state in self._states.items() if now[file] != state)

    def save(self) -> None:
        """Keep what this run used."""
        if self.changed:
            self._folder.write(CACHE_FILE, json.dumps(self._used, sort_keys=True, separators=(",", ":")).encode())
            self._kept = dict(self._used)

    def _refuse_changed(self, file: SourceFile) -> None:
        if file_states([file])[file] != self._states[file]:
            raise DataError(f"{file.path}: changed while it was being read: run prepare again when it is complete")


def _load(folder: Folder) -> dict[str, Any]:
    try:
        kept = json.loads(folder.read(CACHE_FILE) or b"")
    except ValueError:
        return {}  # absent or torn: the files are read again
    return kept if isinstance(kept, dict) else {}
