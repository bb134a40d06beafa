"""Watches the bytes of a tar go by, since readers take a tar that is cut or damaged between members for a whole one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from data_shards.errors import DataError

BLOCK_BYTES = 512
END_MARK = b"\0" * (2 * BLOCK_BYTES)
# Headers that tell of the next one: pax records, GNU long names and links.
_PRELUDES = frozenset(
    (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
)
# Their data begin with a map of unknown length.
_SPARSE = tarfile.GNUTYPE_SPARSE
_LARGEST_PRELUDE_BYTES = 1 << 20


@dataclass(frozen=True)
class TarMember:
    """A member and where its headers begin."""

    name: str
    start: int
    size: int
    is_file: bool


class TarCheck:
    """Follows a tar from header to header; feed it all bytes in order, then `finish` it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._buffer = bytearray()
        self._place = 0  # of the buffer's first byte
        self._skip = 0  # bytes of data until the next header
        self._headers = bytearray()  # those before the header of a member, with their data
        self._start = 0
        self._ended = False

    def feed(self, chunk: bytes) -> Iterator[TarMember]:
        """The members whose headers end within the bytes so far. Raises DataError where a header is damaged."""
        self._buffer += chunk
        while True:
            skipped = min(self._skip, len(self._buffer))
            self._take(skipped)
            self._skip -= skipped
            if self._skip or len(self._buffer) < BLOCK_BYTES:
                return
            if self._ended or not any(self._buffer[:BLOCK_BYTES]):
                self._after_end()
                continue
            if not self._headers:
                self._start = self._place
            header = self._header()
            needed = BLOCK_BYTES + (_padded(header.size) if header.type in _PRELUDES else 0)
            if len(self._buffer) < needed:
                return
            self._headers += self._take(needed)
            if header.type not in _PRELUDES:
                yield self._member(header)

    def finish(self) -> None:
        """Raise DataError unless the tar ended with its end mark."""
        if self._skip or self._buffer or self._headers or not self._ended:
            raise DataError(f"{self._path}: cut off after {self._place + len(self._buffer)} bytes: get the file anew")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._place += size
        return taken

    def _after_end(self) -> None:
        block = self._take(BLOCK_BYTES)
        if any(block):
            raise DataError(
                f"{self._path}: holds data after its end mark, at byte {self._place - BLOCK_BYTES}, which would not be "
                "read: if tars were joined, give them one by one"
            )
        if self._headers:
            raise self._damaged(self._start, "a header without a member")
        self._ended = True

    def _header(self) -> tarfile.TarInfo:
        try:
            header = tarfile.TarInfo.frombuf(bytes(self._buffer[:BLOCK_BYTES]), "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise self._damaged(self._place, str(error)) from error
        if header.size < 0 or header.type == _SPARSE:
            raise self._damaged(self._place, f"a member of type {header.type!r} and size {header.size}")
        if header.type in _PRELUDES and len(self._headers) + header.size > _LARGEST_PRELUDE_BYTES:
            raise self._damaged(self._place, f"headers of {header.size} bytes")
        return header

    def _member(self, header: tarfile.TarInfo) -> TarMember:
        """The member whose last header was taken just now."""
        info: tarfile.TarInfo | None = header
        if len(self._headers) > BLOCK_BYTES:
            try:
                with tarfile.open(fileobj=io.BytesIO(bytes(self._headers)), mode="r:", errors="surrogateescape") as tar:
                    info = tar.next()
            except (tarfile.TarError, ValueError) as error:
                raise self._damaged(self._start, str(error)) from error
        if info is None or info.size < 0:
            raise self._damaged(self._start, "a header that cannot be read")
        self._headers.clear()
        self._skip = _padded(info.size) if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        return TarMember(info.name, self._start, info.size, info.isreg())

    def _damaged(self, place: int, what: str) -> DataError:
        return DataError(f"{self._path}: damaged tar at byte {place} ({what}): get the file anew")


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
