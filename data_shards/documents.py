"""Documents of a piece of a file, exactly as they stand there, and the records that are none."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile, read_chunks

logger = logging.getLogger(__name__)

_PARQUET_ROWS = 1024
_SHOWN_BYTES = 60


def read_documents(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[str]:
    """The documents of bytes [start, end) of a text or JSONL file, or of row groups [start, end) of a Parquet file.

    Text is not changed. A `line` document is the line without its terminator (LF or CR LF), a `blank_line` document
    the lines between empty lines without the last one's terminator. Empty documents are left out and counted.
    """
    if file.format == "parquet":
        documents = _parquet_documents(file, start, end, rejects)
    else:
        documents = _text_documents(file, start, end, rejects)
    for document in documents:
        if document:
            yield document
        else:
            rejects.empty += 1


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their terminators; a line ends at LF alone, so U+2028 and its like stay within a line."""
    parts: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        for piece in rest:
            yield b"".join(parts) + b"\n"
            parts = [piece]
    if tail := b"".join(parts):
        yield tail


def check_parquet_field(file: SourceFile, schema: pa.Schema) -> None:
    """Raise DataError unless the schema has the field and it holds strings."""
    names = file.field.split(".")
    node: Any = schema
    for depth, name in enumerate(names):
        children = [node.field(i).name for i in range(_field_count(node))]
        if name not in children:
            raise DataError(
                f"{file.path}: no column {'.'.join(names[: depth + 1])}; there is {', '.join(children) or 'none'}: "
                "set the source's field"
            )
        node = node.field(children.index(name)).type
    kind = node.value_type if pa.types.is_dictionary(node) else node
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{file.path}: column {file.field} holds {node}, not strings: set the source's field")


def _field_count(node: Any) -> int:
    if isinstance(node, pa.Schema):
        return len(node)
    return node.num_fields if pa.types.is_struct(node) else 0


def _text_documents(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[str]:
    chunks = read_chunks(file.path, file.compression, start, end)
    lines = _LineCounter(file, start)
    if file.format == "jsonl":
        for number, line in enumerate(split_lines(chunks)):
            yield from _json_document(line, file, lines.at(number), rejects)
        return
    for number, data in _text_records(chunks, file.document):
        text = _decode(data, lines.at(number), rejects)
        if text is not None:
            yield text


@dataclass
class _LineCounter:
    """Names lines of a file by their number in a piece of it; counts the lines before the piece only when asked."""

    file: SourceFile
    start: int
    before: int | None = None

    def at(self, record: int) -> Callable[[int], str]:
        """Names the i-th line of a record that starts at line `record` of the piece."""
        return lambda inner: self.where(record + inner)

    def where(self, number: int) -> str:
        if self.before is None:
            earlier = read_chunks(self.file.path, "", 0, self.start) if self.start else ()
            self.before = sum(chunk.count(b"\n") for chunk in earlier)
        return f"{self.file.path}:{self.before + number + 1}"


def _text_records(chunks: Iterable[bytes], document: str) -> Iterator[tuple[int, bytes]]:
    """(number of its first line from 0, bytes) of each document."""
    if document == "file":
        yield 0, b"".join(chunks)
    elif document == "line":
        for number, line in enumerate(split_lines(chunks)):
            yield number, _without_terminator(line)
    else:
        yield from _paragraphs(split_lines(chunks))


def _paragraphs(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    kept: list[bytes] = []
    number = -1
    for number, line in enumerate(lines):
        if line not in (b"\n", b"\r\n"):
            kept.append(line)
        elif kept:
            yield number - len(kept), _without_terminator(b"".join(kept))
            kept = []
    if kept:
        yield number + 1 - len(kept), _without_terminator(b"".join(kept))


def _without_terminator(line: bytes) -> bytes:
    if line.endswith(b"\r\n"):
        return line[:-2]
    return line.removesuffix(b"\n")


def _decode(data: bytes, where: Callable[[int], str], rejects: Rejects) -> str | None:
    """UTF-8, strictly; `where(i)` names the record's i-th line."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        column = error.start - data.rfind(b"\n", 0, error.start)
        found = data[error.start : error.end].hex()
        rejects.reject(
            "invalid UTF-8",
            where(data.count(b"\n", 0, error.start)),
            f"byte {column} of the line, 0x{found} ({error.reason})",
        )
        return None


def _json_document(line: bytes, file: SourceFile, where: Callable[[int], str], rejects: Rejects) -> Iterator[str]:
    text = _decode(line, where, rejects)
    if text is None:
        return
    if not text.strip():
        rejects.empty += 1
        return
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        rejects.reject("not JSON", where(0), f"{error}; the line is {_shown(text)}")
        return
    value, problem = _field_of(record, file.field)
    if problem is None and not isinstance(value, str):
        problem = (f"field {file.field} is no string", f"{type(value).__name__} {_shown(json.dumps(value))}")
    if problem is None and not _is_unicode(value):
        problem = (f"field {file.field} holds half a surrogate pair", _shown(ascii(value)))
    if problem is None:
        yield value
    else:
        rejects.reject(problem[0], where(0), problem[1])


def _field_of(record: Any, dotted: str) -> tuple[Any, tuple[str, str] | None]:
    """(value, None), or (None, (reason, what was found))."""
    if not isinstance(record, dict):
        return None, ("not a JSON object", f"{type(record).__name__} {_shown(json.dumps(record))}")
    for name in dotted.split("."):
        if not isinstance(record, dict) or name not in record:
            found = f"keys {', '.join(record) or 'none'}" if isinstance(record, dict) else _shown(json.dumps(record))
            return None, (f"no field {dotted}", _shown(found))
        record = record[name]
    return record, None


def _is_unicode(text: str) -> bool:
    # JSON can spell half a surrogate pair, which UTF-8 cannot.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN_BYTES else text[:_SHOWN_BYTES] + "..."


def _parquet_documents(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[str]:
    with open_parquet(file) as parquet:
        for group in range(start, end):
            row = 0
            for batch in _read_group(parquet, file, group):
                for value in _leaf(batch, file.field):
                    row += 1
                    yield from _parquet_document(value, f"{file.path}: row group {group}, row {row}", file, rejects)


def open_parquet(file: SourceFile) -> pq.ParquetFile:
    """Open a Parquet file whose field holds strings, else raise DataError."""
    try:
        parquet = pq.ParquetFile(file.path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path}: not a Parquet file ({error}): correct or leave out the file") from error
    check_parquet_field(file, parquet.schema_arrow)
    return parquet


def _read_group(parquet: pq.ParquetFile, file: SourceFile, group: int) -> Iterator[pa.RecordBatch]:
    try:
        yield from parquet.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=[file.field], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path}: row group {group} is damaged ({error}): get the file anew") from error


def _leaf(batch: pa.RecordBatch, dotted: str) -> Iterator[bytes | None]:
    """The field's values as bytes: Arrow does not check that strings in a file are UTF-8."""
    first, *rest = dotted.split(".")
    array = batch.column(first)
    for name in rest:
        array = pa.compute.struct_field(array, name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    for scalar in array.cast(pa.large_binary()):
        yield scalar.as_py()


def _parquet_document(value: bytes | None, where: str, file: SourceFile, rejects: Rejects) -> Iterator[str]:
    if value is None:
        rejects.reject(f"field {file.field} is no string", where, "null")
        return
    text = _decode(value, lambda _: where, rejects)
    if text is not None:
        yield text
