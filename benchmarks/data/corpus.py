"""The corpora: real text cut at sentence ends and put together anew, so that any size comes without repeated documents.

Words, punctuation, and sentences are real; their order is not, and the vocabulary is that of the text given. Nothing
that is measured looks further than a sentence, but a vocabulary that never grows suits an encoder's cache of words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SEED = 1
DOCUMENT_BYTES = (1_000, 8_000)
_SENTENCE_END = re.compile(r"(?<=[.!?;。！？；])\s+|(?<=[。！？；])|(?<=\n)\n+")
_DRAWN_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Corpus:
    """A JSONL file of {"id", "text"}, and what is in it."""

    name: str
    path: Path
    documents: int
    text_bytes: int  # of the texts in UTF-8
    sha256: str  # of the file

    @property
    def megabytes(self) -> float:
        """Text in MB (10**6 bytes)."""
        return self.text_bytes / 1e6


def make_corpus(name: str, files: Sequence[Path], text_bytes: int, folder: Path) -> Corpus:
    """A corpus of `text_bytes` and a little more; made again only if it is not there as it should be.

    The same files and size give the same bytes. Raises: ValueError if the files hold no sentence.
    """
    path, note = folder / f"{name}.jsonl", folder / f"{name}.json"
    asked = {"files": [file_sha256(file) for file in files], "text_bytes": text_bytes, "seed": SEED}
    if note.is_file() and path.is_file():
        known = json.loads(note.read_text())
        if known["asked"] == asked and path.stat().st_size == known["file_bytes"]:
            return Corpus(**{**known["corpus"], "path": path})
    pool = [piece for file in files for piece in sentences(file.read_text(encoding="utf-8", errors="replace"))]
    corpus = _write(name, path, documents(pool, text_bytes, SEED))
    known = {"asked": asked, "file_bytes": path.stat().st_size, "corpus": {**asdict(corpus), "path": path.name}}
    note.write_text(json.dumps(known, indent=1) + "\n")
    return corpus


def sentences(text: str) -> Iterator[str]:
    """The text's sentences, each with the white space that follows it; nothing is lost."""
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match.end() > start:
            yield text[start : match.end()]
            start = match.end()
    if start < len(text):
        yield text[start:]


def documents(pool: Sequence[str], text_bytes: int, seed: int) -> Iterator[str]:
    """Texts of sentences drawn from the pool, 1 to 8 KB each (log-uniform), until they have `text_bytes` together."""
    if not pool:
        raise ValueError("the text files hold no sentence: give files that hold prose")
    generator = np.random.default_rng(seed)
    sizes = np.array([len(piece.encode()) for piece in pool])
    made = 0
    while True:
        drawn = generator.integers(0, len(pool), _DRAWN_AT_ONCE)
        ends = np.cumsum(sizes[drawn])
        low, high = np.log(DOCUMENT_BYTES).tolist()
        wanted = np.cumsum(np.exp(generator.uniform(low, high, _DRAWN_AT_ONCE)))
        # Where each document stops; the sentences after the last whole one are not used.
        stops = np.searchsorted(ends, wanted[: np.searchsorted(wanted, ends[-1])])
        start = 0
        for stop in np.unique(stops).tolist():
            yield "".join([pool[i] for i in drawn[start : stop + 1].tolist()])
            made += int(ends[stop] - (ends[start - 1] if start else 0))
            start = stop + 1
            if made >= text_bytes:
                return


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(name: str, path: Path, texts: Iterator[str]) -> Corpus:
    number = text_bytes = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")
            number += 1
            text_bytes += len(text.encode())
    return Corpus(name, path, number, text_bytes, file_sha256(path))
