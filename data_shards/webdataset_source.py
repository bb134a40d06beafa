"""WebDataset tars: a document is the .txt of a sample, or a field of its .json. Nothing else of a tar is opened.

webdataset itself reads it, with its security enforced and from a stream: no address reaches a shell, nothing is
unpickled. A large plain tar is cut between samples; a compressed or a remote one is not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from data_shards.batches import PART_BYTES, Batch, Part, text_batches
from data_shards.errors import DataError
from data_shards.json_lines import field_value
from data_shards.json_stream import json_document
from data_shards.long_text import long_document
from data_shards.rejects import Rejects
from data_shards.settings import is_remote
from data_shards.source_files import state_of
from data_shards.sources import SourceFile, read_chunks
from data_shards.tar_check import END_MARK, TarCheck, TarMember
from data_shards.utf8 import Where

logger = logging.getLogger(__name__)

_TEXT, _JSON = "txt", "json"
_DEFAULT_FIELD = "text"
_METADATA = re.compile(r"__[^/]*__($|/)")  # what webdataset skips
# webdataset holds a member whole.
_LARGEST_MEMBER_BYTES = 64 << 20

Sample = dict[str, Any]


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The documents of the samples in bytes [start, end) of a tar, in order; empty ones are left out and counted.

    Where a sample has both, `.txt` goes before `.json` unless the source names a field. Members over 64 MiB are
    rejected. Raises DataError for a damaged tar, or one that is cut off, if only between two members.
    """
    keys: list[str] = []
    parts = _documents(file, _samples(file, start, end, rejects), keys, rejects)
    yield from text_batches(parts, lambda i: f"{file.path}: {keys[i]}")


def ranges(file: SourceFile, unit_bytes: int) -> list[tuple[int, int, int]]:
    """Ranges of bytes on borders of samples, of about `unit_bytes` each, with their sizes."""
    size = state_of(file.path).size
    if file.compression or is_remote(file.path) or size <= unit_bytes:
        return [(0, size, size)]
    found = []
    start = last = 0
    for border in _sample_borders(file, size):
        if border - start > unit_bytes and last > start:
            found.append((start, last, last - start))
            start = last
        last = border
    if size - start > unit_bytes and last > start:
        found.append((start, last, last - start))
        start = last
    return [*found, (start, size, size - start)]


class _Stream:
    """The bytes of a tar for webdataset to read, checked on their way."""

    def __init__(self, file: SourceFile, chunks: Iterator[bytes], rejects: Rejects) -> None:
        self._file = file
        self._chunks = chunks
        self._rejects = rejects
        self._check = TarCheck(file.path)
        self._held = b""
        self._too_large: set[str] = set()
        self.failure: str | None = None
        self.ignored = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        if not self._held:
            try:
                self._held = self._next_chunk()
            except DataError as error:
                self.failure = str(error)
                raise
        data, self._held = self._held[:size], self._held[size:]
        return data

    def drain(self) -> None:
        """Check what webdataset did not ask for, to the end."""
        while self._next_chunk():
            pass

    def wanted(self, name: str) -> bool:
        """Whether webdataset is to read a member."""
        wanted = name not in self._too_large and _wanted(name)
        if not wanted:
            self.ignored += 1
            if name.lower().endswith((".txt", ".json")) and name not in self._too_large:
                logger.warning("%s: %s is left alone: its name has a dot before .txt or .json", self._file.path, name)
        return wanted

    def _next_chunk(self) -> bytes:
        chunk = next(self._chunks, b"")
        if not chunk:
            self._check.finish()
        for member in self._check.feed(chunk):
            self._look_at(member)
        return chunk

    def _look_at(self, member: TarMember) -> None:
        if member.size > _LARGEST_MEMBER_BYTES and _wanted(member.name):
            self._too_large.add(member.name)
            found = f"{member.size} bytes, more than {_LARGEST_MEMBER_BYTES}"
            self._rejects.reject("member too large", f"{self._file.path}: {member.name}", found)


def _samples(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Sample]:
    stream = _Stream(file, _whole_tar(file, start, end), rejects)

    def refused(error: Exception) -> bool:
        if stream.failure is not None:
            raise DataError(stream.failure) from error  # webdataset adds to the arguments of those it sees
        if not isinstance(error, ValueError):
            raise error
        rejects.reject("two members of one name in a sample", file.path, str(error.args[0]))
        return True

    source = [{"url": file.path, "stream": stream}]
    library = _webdataset()
    members = library.tar_file_expander(source, handler=refused, select_files=stream.wanted, eof_value=None)
    samples = library.group_by_keys(members, handler=refused)
    while (sample := _next_secured(samples)) is not None:
        yield sample
    stream.drain()
    if stream.ignored:
        logger.info("%s: %d members that hold no text are left alone", file.path, stream.ignored)


def _next_secured(samples: Iterator[Sample]) -> Sample | None:
    """The next sample, or None at the end, with webdataset's security enforced meanwhile: it is a switch for all."""
    import webdataset.utils

    before = webdataset.utils.enforce_security
    webdataset.utils.enforce_security = True
    try:
        return next(samples, None)
    finally:
        webdataset.utils.enforce_security = before


def _webdataset() -> Any:
    """webdataset's readers of tars, imported when there is a tar to read: it takes seconds."""
    import webdataset.tariterators

    return webdataset.tariterators


def _whole_tar(file: SourceFile, start: int, end: int) -> Iterator[bytes]:
    """A stretch of a tar as a tar of its own."""
    yield from read_chunks(file.path, file.compression, start, end)
    if not file.compression and end < state_of(file.path).size:
        yield END_MARK


def _documents(file: SourceFile, samples: Iterable[Sample], keys: list[str], rejects: Rejects) -> Iterator[Part]:
    """The documents' parts; the keys of their samples are added to `keys`."""
    for sample in samples:
        begun = False
        for part in _document(file, sample, rejects):
            if not begun:
                keys.append(str(sample["__key__"]))
            begun = True
            yield part


def _document(file: SourceFile, sample: Sample, rejects: Rejects) -> Iterator[Part]:
    place = f"{file.path}: {sample['__key__']}"
    if _JSON in sample and (file.field or _TEXT not in sample):
        return _json_document(sample[_JSON], file.field or _DEFAULT_FIELD, lambda _: f"{place}.json", rejects)
    data = sample.get(_TEXT, b"")
    rejects.empty += not data
    return long_document((data,), lambda _: f"{place}.txt", rejects)


def _json_document(data: bytes, field: str, where: Where, rejects: Rejects) -> Iterator[Part]:
    if len(data) > PART_BYTES:
        yield from json_document((data,), field, where, rejects)
    elif value := field_value(data, field, where, rejects):
        yield value, False
    elif value is not None:
        rejects.empty += 1


def _sample_borders(file: SourceFile, size: int) -> Iterator[int]:
    """Where a sample begins, but for the first."""
    check = TarCheck(file.path)
    current: str | None = None
    split = _webdataset().base_plus_ext
    for chunk in read_chunks(file.path, "", 0, size):
        for member in check.feed(chunk):
            # Other members may come between those of a sample, and are not seen when it is read.
            key = split(member.name)[0] if member.is_file and _wanted(member.name) else None
            if key is not None and current is not None and key != current:
                yield member.start
            current = key or current
    check.finish()


def _wanted(name: str) -> bool:
    """Whether a member holds text, by its suffix: all after the first dot of its last part, as for webdataset."""
    suffix = name.rpartition("/")[2].partition(".")[2].lower()
    return suffix in (_TEXT, _JSON) and not _METADATA.match(name)
