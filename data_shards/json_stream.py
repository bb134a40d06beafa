"""A JSON object too long to be held, read from left to right, of which one string field is given piece by piece."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from data_shards.batches import PART_BYTES, Part, Withdrawal
from data_shards.long_text import cut
from data_shards.rejects import Rejects, shown
from data_shards.utf8 import Where

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r"""(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+""")
_LONGEST_ESCAPE = 6
_OUTSIDE_STRINGS = re.compile(r'[^"\[\]{}]*+')
_SCALAR = re.compile(r"[^ \t\r\n,\]}]*+")
_IS_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|NaN|-?Infinity")
_LONGEST_NAME = 1 << 16
_LONGEST_SCALAR = 5000
_DEEPEST = 1000
_HIGH_SURROGATES = re.compile(r"[\ud800-\udbff]\Z")
_CLOSING = {"{": "}", "[": "]"}


class _BadRecord(Exception):
    def __init__(self, reason: str, found: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.found = found


def json_document(pieces: Iterable[bytes], dotted: str, where: Where, rejects: Rejects) -> Iterator[Part]:
    """The parts of the string that `dotted` names in the object that the pieces of one line make.

    Of a name that comes twice the last value counts, as for `json.loads`. Of other values the brackets and strings are
    checked, not the commas and numbers between them. The pieces are read to their end.
    """
    pieces = iter(pieces)
    document = _Document(_Reader(pieces, dotted), where, rejects)
    try:
        yield from document.parts(dotted.split("."))
    except _BadRecord as bad:
        for _ in pieces:
            pass
        if document.begun:
            yield Withdrawal()
        rejects.reject(bad.reason, where(0), bad.found)


class _Document:
    """The wanted string as far as it is known."""

    def __init__(self, reader: _Reader, where: Where, rejects: Rejects) -> None:
        self._reader = reader
        self._where = where
        self._rejects = rejects
        self._last: str | None = None  # the last part, held until the line is known to be good
        self._problem: tuple[str, str] | None = None
        self.begun = False  # a part was given

    def parts(self, path: list[str]) -> Iterator[Part]:
        reader = self._reader
        if reader.peek() != "{":
            raise _BadRecord("not a JSON object", reader.here())
        self._problem = (f"no field {reader.field}", f"a line of more than {PART_BYTES} bytes")
        yield from self._object(path)
        if reader.peek():
            raise _BadRecord("not JSON", f"Extra data: {reader.here()}")
        if self._problem is not None:
            raise _BadRecord(*self._problem)
        if self._last:
            yield self._last, False
        else:
            self._rejects.empty += 1

    def _object(self, path: list[str]) -> Iterator[Part]:
        reader = self._reader
        reader.take("{")
        while reader.peek() != "}":
            name = reader.name()
            reader.take(":")
            if name != path[0]:
                reader.skip_value()
            else:
                yield from self._forget()
                yield from self._wanted(path)
            if reader.peek() != "}":
                reader.take(",")
                if reader.peek() == "}":
                    raise _BadRecord("not JSON", f"a comma before {reader.here()}")
        reader.take("}")

    def _wanted(self, path: list[str]) -> Iterator[Part]:
        reader = self._reader
        first = reader.peek()
        if len(path) > 1 and first == "{":
            self._problem = (f"no field {reader.field}", f"a line of more than {PART_BYTES} bytes")
            yield from self._object(path[1:])
        elif len(path) == 1 and first == '"':
            self._problem = None
            yield from self._string()
        else:
            lacking = f"no field {reader.field}" if len(path) > 1 else f"field {reader.field} is no string"
            self._problem = (lacking, reader.here())
            reader.skip_value()

    def _string(self) -> Iterator[Part]:
        self._last = ""
        utf8 = map(self._encoded, self._reader.string())
        for data, goes_on in cut(utf8, lambda: self._rejects.cut_within_a_word(self._where(0), PART_BYTES)):
            if goes_on:
                self.begun = True
                yield data.decode("utf-8"), True
            else:
                self._last = data.decode("utf-8")

    def _forget(self) -> Iterator[Part]:
        """An earlier value of the same name does not count."""
        if self.begun:
            yield Withdrawal()
        self.begun = False
        self._last = None

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            found = ascii(text[error.start : error.end])
            raise _BadRecord(f"field {self._reader.field} holds half a surrogate pair", found) from error


class _Reader:
    """Takes JSON from a stream of UTF-8 of which it holds one piece."""

    def __init__(self, pieces: Iterator[bytes], field: str) -> None:
        self.field = field
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._bytes = 0  # that were decoded before

    def peek(self) -> str:
        """The next character that is no white space; nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Go past a character, which must be the next one."""
        if self.peek() != expected:
            raise _BadRecord("not JSON", f"Expecting {expected!r}: {self.here()}")
        self._at += 1

    def here(self) -> str:
        """What comes next, for a message."""
        return (
            f"at byte {self._bytes_before()}: {shown(self._text[self._at : self._at + 100]) or 'the end of the line'}"
        )

    def name(self) -> str:
        """A field's name."""
        parts: list[str] = []
        size = 0
        for part in self.string():
            parts.append(part)
            size += len(part)
            if size > _LONGEST_NAME:
                raise _BadRecord("not read", f"a field's name of more than {_LONGEST_NAME} characters")
        return "".join(parts)

    def string(self) -> Iterator[str]:
        """The pieces of a string's value."""
        high = ""
        for raw in self._raw_string():
            text = high + json.loads(f'"{raw}"')
            if high:  # the two halves of a pair came in two pieces
                text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
            high = text[-1] if _HIGH_SURROGATES.search(text) else ""
            yield text[: len(text) - len(high)]
        if high:
            yield high

    def skip_value(self) -> None:
        """Go past a value of any kind."""
        first = self.peek()
        if first == '"':
            self._skip_string()
        elif first in ("{", "["):
            self._skip_brackets()
        else:
            self._skip_scalar()

    def _skip_string(self) -> None:
        for _ in self._raw_string():
            pass

    def _skip_brackets(self) -> None:
        awaited: list[str] = []
        while True:
            found = self._next_mark()
            if found == '"':
                self._skip_string()
                continue
            self._at += 1
            if found in _CLOSING:
                awaited.append(_CLOSING[found])
                if len(awaited) > _DEEPEST:
                    raise _BadRecord("not JSON", f"more than {_DEEPEST} brackets within each other")
            elif found != awaited.pop():
                raise _BadRecord("not JSON", f"brackets that do not match before {self.here()}")
            if not awaited:
                return

    def _next_mark(self) -> str:
        """Go to the next quote or bracket."""
        while True:
            self._at = _OUTSIDE_STRINGS.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise _BadRecord("not JSON", "the line ends within brackets")

    def _skip_scalar(self) -> None:
        scalar = ""
        while True:
            match = _SCALAR.match(self._text, self._at)
            assert match is not None
            scalar += match[0]
            self._at = match.end()
            if self._at < len(self._text) or len(scalar) > _LONGEST_SCALAR or not self._more():
                break
        if not _IS_SCALAR.fullmatch(scalar):
            raise _BadRecord("not JSON", f"Expecting value: {shown(scalar) or self.here()}")

    def _raw_string(self) -> Iterator[str]:
        """A string as it stands there, in pieces that hold whole escapes; goes past its end."""
        self.take('"')
        while True:
            end = _STRING.match(self._text, self._at).end()  # type: ignore[union-attr]
            raw = self._text[self._at : end]
            self._at = end
            if raw:
                yield raw
            left = len(self._text) - self._at
            if left and self._text[self._at] == '"':
                self._at += 1
                return
            if left >= _LONGEST_ESCAPE or (left and self._text[self._at] != "\\"):
                raise _BadRecord("not JSON", f"Invalid character or escape in a string {self.here()}")
            if not self._more():
                raise _BadRecord("not JSON", "the line ends within a string")

    def _more(self) -> bool:
        """Decode another piece; False at the end."""
        kept = self._text[self._at :]
        for piece in chain(self._pieces, (b"",)):
            final = not piece
            try:
                text = self._decoder.decode(piece, final)
            except UnicodeDecodeError as error:
                found = error.object[error.start : error.end].hex()
                raise _BadRecord("invalid UTF-8", f"0x{found} ({error.reason})") from error
            if text or final:
                self._bytes += len(self._text[: self._at].encode())
                self._text = kept + text
                self._at = 0
                return bool(text)
        return False

    def _bytes_before(self) -> int:
        return self._bytes + len(self._text[: self._at].encode())
