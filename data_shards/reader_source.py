"""Documents from a reader that the run file names: `format: module:function`.

The function takes the path of a file, or its address, and yields the texts of its documents, in order. It must give the
same texts for the same file each time, wherever it runs: units, hashes and the split rest on that. A file is never cut.
What is made of it depends on the file's bytes and on the source of the reader's module, so that a changed reader makes
its units anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_shards.batches import BATCH_BYTES, Batch
from data_shards.errors import DataError
from data_shards.long_text import document_batches
from data_shards.named_function import load_function, place_of
from data_shards.rejects import Rejects, shown
from data_shards.sources import SourceFile

FIELD = "data.sources.format"


def read(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The documents of a whole file, as its reader gives them; empty ones are left out and counted.

    Raises DataError where the reader fails, or yields what is no text.
    """
    texts: list[str] = []
    numbers: list[int] = []
    size = 0
    for number, text in enumerate(_texts(file)):
        problem = _problem(text)
        if problem is not None:
            rejects.reject("a text holds half a surrogate pair", f"{file.path}: document {number}", problem)
        elif not text:
            rejects.empty += 1
        else:
            texts.append(text)
            numbers.append(number)
            size += len(text)
        if size >= BATCH_BYTES:
            yield from _batches(file, texts, numbers, rejects)
            texts, numbers, size = [], [], 0
    yield from _batches(file, texts, numbers, rejects)


def _batches(file: SourceFile, texts: list[str], numbers: list[int], rejects: Rejects) -> Iterator[Batch]:
    return document_batches(texts, lambda i: f"{file.path}: document {numbers[i]}", rejects)


def _texts(file: SourceFile) -> Iterator[str]:
    """What the reader yields, with its errors as ours."""
    function = load_function(file.reader, FIELD)
    number = 0
    try:
        for text in function(file.path):
            _check_text(text, file, number)
            yield text
            number += 1
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{file.path}: the reader {file.reader} failed at document {number} ({type(error).__name__}: {error}; "
            f"{place_of(error)}): correct the reader or the file"
        ) from error


def _check_text(text: Any, file: SourceFile, number: int) -> None:
    if not isinstance(text, str):
        raise DataError(
            f"{file.path}: the reader {file.reader} must yield texts (str), found {type(text).__name__} {text!r:.60} "
            f"as document {number}: correct the reader"
        )


def _problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return shown(ascii(text))
    return None
