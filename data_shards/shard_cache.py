"""A node's copies of the shards of a remote dataset: bounded, shared by its processes, proved before use.

A copy's name is the SHA-256 of its content, so datasets and their versions share copies. Of the processes that want a
shard at once one gets it, the others wait for its lock. The copy that was used longest ago goes first; a process that
has it mapped keeps reading it, since a file's bytes live on until the last map of it is gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data_shards.errors import DataError
from data_shards.files import TEMPORARY_PREFIX
from data_shards.manifest import Shard
from data_shards.object_folder import ObjectFolder
from data_shards.settings import DataSettings

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 50 << 30
# Of the cache, what one process fills ahead of its need: a node's eight ranks must not throw out each other's.
AHEAD_SHARE = 8
AHEAD_THREADS = 4
# Waits between the tries of a download that fails or comes damaged; each try has the store client's own tries in it.
RETRY_WAITS_SECONDS = (0.5, 2.0, 8.0)
# Returned paths whose files stay for sure until the caller has mapped them.
_PINS = 2
_SUFFIX = ".tar"
_DRAFT = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{64}}-(\d+)")


@dataclass(frozen=True)
class CachePlace:
    """Where a node keeps copies (by default in its temporary folder), and how many bytes of them at most."""

    dir: str | None = None
    max_bytes: int = DEFAULT_CACHE_BYTES

    @property
    def path(self) -> Path:
        return Path(self.dir) if self.dir else Path(tempfile.gettempdir()) / f"headrace-shards-{os.getuid()}"


def cache_place(settings: DataSettings) -> CachePlace:
    """The place that a run file asks for."""
    return CachePlace(settings.cache_dir, settings.cache_bytes)


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    path: Path
    size: int  # bytes that it has or will have
    written: int  # bytes that it has
    last_use: float  # seconds


def victims(entries: Iterable[Entry], needed: int, max_bytes: int) -> list[Entry]:
    """What to remove so that `needed` more bytes fit into `max_bytes`: last used first of all. Pure.

    All entries, if even that is not enough.
    """
    kept = sorted(entries, key=lambda entry: (entry.last_use, entry.path))
    surplus = sum(entry.size for entry in kept) + needed - max_bytes
    chosen = []
    for entry in kept:
        if surplus <= 0:
            break
        chosen.append(entry)
        surplus -= entry.size
    return chosen


class ShardCache:
    """The shards of one folder, as local files. Threads may share it; a fork must make its own."""

    def __init__(self, folder: ObjectFolder, place: CachePlace) -> None:
        """Raises DataError if the place cannot be written."""
        self._folder = folder
        self.dir = place.path
        self._max_bytes = place.max_bytes
        self._pinned: OrderedDict[Path, IO[bytes]] = OrderedDict()
        self._pin_lock = threading.Lock()
        self._warned = False
        self._damaged: dict[str, str] = {}  # why, by SHA-256: each is brought in vain once, and not for every row
        self._wanted: dict[str, Shard] = {}  # ahead of need, by SHA-256, the first needed first
        self._taken: dict[str, int] = {}  # bytes of those the threads got or are getting and `path` did not ask for yet
        self._change = threading.Condition()
        self._threads: list[threading.Thread] = []
        try:
            self.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DataError(
                f"data.cache_dir: {self.dir} cannot be made ({error.strerror}): give another data.cache_dir"
            ) from error

    def path(self, shard: Shard) -> Path:
        """A local file that is the shard, whole; waits until it is there.

        Raises DataError where the store has no such shard, another than the manifest says, or does not answer.
        """
        path = self.dir / f"{shard.sha256}{_SUFFIX}"
        while not self._pin(path, shard.bytes):
            self._bring(shard, path)
        with self._change:
            self._wanted.pop(shard.sha256, None)
            self._taken.pop(shard.sha256, None)
            self._change.notify_all()
        return path

    def ahead(self, shards: Sequence[Shard]) -> None:
        """Get these in the background, the first first; forget those of earlier calls that are not among them.

        Those that `path` was not asked for yet fill at most an eighth of the cache, or are one.
        """
        with self._change:
            wanted = {shard.sha256: shard for shard in shards}
            self._taken = {sha256: size for sha256, size in self._taken.items() if sha256 in wanted}
            self._wanted = {sha256: shard for sha256, shard in wanted.items() if sha256 not in self._taken}
            self._change.notify_all()
        # Daemons, so that a rank that ends does not wait for what it no longer needs.
        while shards and len(self._threads) < AHEAD_THREADS:
            self._threads.append(threading.Thread(target=self._work_ahead, name="shards ahead", daemon=True))
            self._threads[-1].start()

    def _work_ahead(self) -> None:
        while True:
            with self._change:
                while (shard := self._take()) is None:
                    self._change.wait()
            path = self.dir / f"{shard.sha256}{_SUFFIX}"
            try:
                while not _touch(path, shard.bytes):
                    self._bring(shard, path)
            except (DataError, OSError) as error:
                logger.warning("%s; it will be tried again when it is needed", error)

    def _take(self) -> Shard | None:
        """The next shard to get, if there is room for it ahead of need."""
        shard = next(iter(self._wanted.values()), None)
        room = self._max_bytes // AHEAD_SHARE - sum(self._taken.values())
        if shard is None or (self._taken and shard.bytes > room):
            return None
        self._taken[shard.sha256] = self._wanted.pop(shard.sha256).bytes
        return shard

    def _bring(self, shard: Shard, path: Path) -> None:
        """Bring a shard here under its name, proved, or wait until another thread or process did or gave up."""
        if shard.sha256 in self._damaged:
            raise DataError(self._damaged[shard.sha256])
        temporary = self.dir / f"{TEMPORARY_PREFIX}{shard.sha256}-{shard.bytes}"
        try:
            with temporary.open("ab") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    # Shared, since by the time that the draft is done its file may be pinned.
                    fcntl.flock(file, fcntl.LOCK_SH)
                    return
                if not _is_same(file, temporary):
                    return
                try:
                    if not _touch(path, shard.bytes):  # it was there before this draft was begun
                        self._make_room(shard.bytes, temporary)
                        self._download(shard, temporary)
                        temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"data.cache_dir: {self.dir} cannot take a shard of {shard.bytes} bytes ({error.strerror or error}): "
                "make room there, or give another data.cache_dir"
            ) from error

    def _download(self, shard: Shard, to: Path) -> None:
        for wait_seconds in (*RETRY_WAITS_SECONDS, None):
            damage = None
            try:
                if not self._folder.download(shard.path, to):
                    break
                damage = self._damage(shard, to)
                if damage is None:
                    return
                raise DataError(damage)
            except DataError as error:
                if wait_seconds is None:
                    if damage is not None:
                        self._damaged[shard.sha256] = damage
                    raise
                logger.warning("%s; trying again", error)
                time.sleep(wait_seconds)
        raise DataError(
            f"Shard {self._folder.address}/{shard.path} is missing; the manifest says {shard.bytes} bytes: "
            "bring the file back, or prepare the dataset again."
        )

    def _damage(self, shard: Shard, path: Path) -> str | None:
        """What is wrong with a file that should be the shard."""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        if (size, found) == (shard.bytes, shard.sha256):
            return None
        return (
            f"Shard {self._folder.address}/{shard.path} is damaged: it has {size} bytes with SHA-256 {found} and the "
            f"manifest says {shard.bytes} bytes with {shard.sha256}: delete the file and prepare the dataset again."
        )

    def _make_room(self, needed: int, keep: Path) -> None:
        """Remove copies until `needed` bytes fit, or nothing is left that may go. `keep` is where they will be."""
        with (self.dir / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = [entry for entry in _entries(self.dir) if entry.path != keep]
            limit = min(self._max_bytes, sum(entry.written for entry in entries) + shutil.disk_usage(self.dir).free)
            room = limit
            while chosen := victims(entries, needed, room):
                in_use = [entry for entry in chosen if not _evict(entry.path)]
                room -= sum(entry.size for entry in in_use)
                entries = [entry for entry in entries if entry not in chosen]
            if needed > room and not self._warned:
                self._warned = True
                logger.warning(
                    "data.cache_bytes: %d bytes in %s do not hold the shards in use: reading is slower than it need be",
                    limit,
                    self.dir,
                )

    def _pin(self, path: Path, size: int) -> bool:
        """Note a use of the file and keep it from being removed for a while; False if it is not there whole."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        fcntl.flock(file, fcntl.LOCK_SH)
        if not _is_same(file, path) or not _touch(path, size):
            file.close()
            return False
        with self._pin_lock:
            before = self._pinned.pop(path, None)
            self._pinned[path] = file
            last = self._pinned.popitem(last=False)[1] if len(self._pinned) > _PINS else None
        for unpinned in (before, last):
            if unpinned is not None:
                unpinned.close()
        return True


def _entries(dir: Path) -> list[Entry]:
    """The copies in the cache, and those on their way into it."""
    entries = []
    with os.scandir(dir) as found:
        for item in found:
            draft = _DRAFT.fullmatch(item.name)
            if draft is None and not item.name.endswith(_SUFFIX):
                continue
            try:
                status = item.stat()
            except FileNotFoundError:
                continue
            size = int(draft[1]) if draft else status.st_size
            entries.append(Entry(Path(item.path), size, status.st_size, status.st_mtime))
    return entries


def _evict(path: Path) -> bool:
    """Remove a file unless it is pinned or is being written."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _touch(path: Path, size: int) -> bool:
    """Note that a copy is about to be used; False if it is not there."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _is_same(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
