"""Audit of a dataset: every byte of every shard against the manifest."""

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from data_shards.dataset import TOKENIZER_FILE, Dataset
from data_shards.errors import DataError
from data_shards.example_view import example_problems
from data_shards.manifest import Shard
from data_shards.shard_cache import CachePlace
from data_shards.shard_view import ShardView
from data_shards.shard_writer import npy_header
from data_shards.storage import LocalFolder, open_folder
from data_shards.tokenizer import load_tokenizer

# Of a dataset at an address: shards that are fetched while one is looked at, and what of them lies here at a time.
_SHARDS_AHEAD = 4
_COPIES_BYTES = 2 << 30


@dataclass(frozen=True)
class Problem:
    """Something in a dataset that is not as it should be."""

    path: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at and what was found."""

    fingerprint: str
    shards: int
    tokens: int
    documents: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(dir: Path | str, fingerprint: str | None = None) -> VerifyReport:
    """Read the whole of a dataset and report all that is wrong; DataError if its manifest cannot be read.

    One at an address is downloaded, a few shards at a time, whatever copies this machine has.
    """
    with _place_of_copies(dir) as place:
        dataset = Dataset.open(dir, fingerprint, place)
        problems = list(_tokenizer_problems(dataset))
        for number, shard in enumerate(dataset.shards):
            dataset.ahead(dataset.shards[number : number + _SHARDS_AHEAD])
            problems += [Problem(shard.path, what) for what in shard_problems(dataset, shard)]
    return VerifyReport(
        fingerprint=dataset.fingerprint,
        shards=len(dataset.shards),
        tokens=sum(shard.tokens for shard in dataset.shards),
        documents=sum(shard.documents for shard in dataset.shards),
        problems=tuple(problems),
    )


@contextmanager
def _place_of_copies(dir: Path | str) -> Iterator[CachePlace]:
    if isinstance(open_folder(dir), LocalFolder):
        yield CachePlace()
        return
    with tempfile.TemporaryDirectory(prefix="headrace-verify-", ignore_cleanup_errors=True) as folder:
        yield CachePlace(folder, _COPIES_BYTES)


def shard_problems(dataset: Dataset, shard: Shard) -> Iterator[str]:
    """What is wrong with one shard: size, hash, tar structure, hashes of blocks, documents, token ids, counts."""
    try:
        view = ShardView(dataset, shard)
    except DataError as error:
        yield str(error)
        return
    with view.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        yield f"SHA-256 is {digest}, but the manifest says {shard.sha256}"
    yield from _tar_problems(dataset, shard, view.path)
    yield from _block_problems(dataset, view)
    yield from _document_problems(dataset, view)


def reader_check(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, document starts) of a shard's blocks, in order, as plain webdataset reads them."""
    import webdataset  # takes seconds, and only this needs it

    samples: Any = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode()
    return [(sample["tokens.npy"], sample["docs.npy"]) for sample in samples]


def _tokenizer_problems(dataset: Dataset) -> Iterator[Problem]:
    name = TOKENIZER_FILE
    try:
        found = load_tokenizer(dataset.tokenizer_path).fingerprint
    except DataError as error:
        yield Problem(name, str(error))
        return
    if found != dataset.tokenizer_fingerprint:
        yield Problem(name, f"fingerprint is {found}, but the dataset was made with {dataset.tokenizer_fingerprint}")


def _tar_problems(dataset: Dataset, shard: Shard, path: Path) -> Iterator[str]:
    """Members, their order and the place of their elements."""
    expected = []
    for block in shard.blocks:
        expected.append((f"{block.key}.tokens.npy", block.token_offset, np.dtype(dataset.dtype), block.tokens))
        expected.append((f"{block.key}.docs.npy", block.docs_offset, np.dtype("uint32"), block.docs))
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            members = tar.getmembers()
            if [member.name for member in members] != [name for name, *_ in expected]:
                yield f"the tar has {len(members)} members, which are not the {len(expected)} of the manifest"
                return
            for member, (name, offset, dtype, length) in zip(members, expected, strict=True):
                header = npy_header(np.empty(length, dtype.newbyteorder("<")))
                file.seek(member.offset_data)
                if file.read(len(header)) != header or member.offset_data + len(header) != offset:
                    yield f"{name}: not an array of {length} {dtype} at byte {offset}"
    except tarfile.TarError as error:
        yield f"not a legal tar ({error})"


def _block_problems(dataset: Dataset, view: ShardView) -> Iterator[str]:
    for block in view.shard.blocks:
        tokens, docs = view.tokens_of(block), view.docs_of(block)
        if xxh3_64_intdigest(tokens.tobytes()) != block.token_xxh3:
            yield f"block {block.key}: hash of the tokens is wrong"
        if xxh3_64_intdigest(docs.tobytes()) != block.docs_xxh3:
            yield f"block {block.key}: hash of the document starts is wrong"
        ids = view.ids_of(block)
        if len(ids) and int(ids.max()) >= dataset.vocab_size:
            yield f"block {block.key}: token {ids.max()} is outside the vocabulary of {dataset.vocab_size}"
        if len(docs) and int(docs.max()) >= block.tokens:
            yield f"block {block.key}: a document starts at {docs.max()}, but it has {block.tokens} tokens"


def _document_problems(dataset: Dataset, view: ShardView) -> Iterator[str]:
    shard = view.shard
    count = sum(block.tokens for block in shard.blocks)
    if count != shard.tokens:
        yield f"its blocks have {count} tokens, but the manifest says {shard.tokens}"
    starts = view.document_starts()
    if len(starts) != shard.documents:
        yield f"{len(starts)} documents start in it, but the manifest says {shard.documents}"
    if len(starts) == 0 or starts[0] != 0 or np.any(np.diff(starts) <= 0):
        yield "the documents' starts do not rise from 0"
        return
    if dataset.examples is not None:
        yield from example_problems(dataset, view)
        return
    ends = [first + np.flatnonzero(view.tokens_of(block) == dataset.eot_id) for first, block in view.placed_blocks()]
    if not np.array_equal(np.concatenate(ends), np.append(starts[1:], shard.tokens) - 1):
        yield f"the end marks (token {dataset.eot_id}) do not stand at the documents' ends"
