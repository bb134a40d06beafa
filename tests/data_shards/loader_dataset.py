"""Small datasets for the loader's tests, written by tarfile and numpy alone."""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from data_shards.blocks import Block
from data_shards.dataset import Dataset
from data_shards.manifest import Shard


def shard_ids(number: int, tokens: int) -> np.ndarray:
    """The tokens of shard `number`, int64 [tokens]: no two alike in a dataset of small shards."""
    return number * 1000 + np.arange(tokens)


def build_dataset(
    folder: Path,
    train: Sequence[int],
    val: Sequence[int] = (),
    *,
    sources: Sequence[str] | None = None,
    block_tokens: int = 7,
    dtype: str = "uint16",
    documents: Sequence[int] = (0,),
) -> Dataset:
    """A dataset with shards of so many tokens; shards are numbered through, train before val.

    In each shard documents start at the places `documents`, where it has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [("train", tokens) for tokens in train] + [("val", tokens) for tokens in val]
    names = [*(sources or ["a"] * len(train)), *["a"] * len(val)]
    shards = [
        write_shard(
            folder,
            split,
            names[number],
            number,
            shard_ids(number, tokens),
            block_tokens,
            dtype,
            [start for start in documents if start < tokens],
        )
        for number, (split, tokens) in enumerate(sizes)
    ]
    return Dataset(
        dir=folder,
        fingerprint=f"{train}{val}",
        tokenizer_fingerprint="t",
        corpus_fingerprint="c",
        vocab_size=60_000,
        eot_id=0,
        dtype=dtype,
        shards=tuple(shards),
    )


def write_shard(
    folder: Path,
    split: str,
    source: str,
    number: int,
    ids: np.ndarray,
    block_tokens: int,
    dtype: str,
    documents: Sequence[int] = (0,),
) -> Shard:
    """A shard of these ids, whose documents start at the places `documents`."""
    path, starts = folder / f"{split}-{number:05d}.tar", np.array(documents)
    blocks = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for start in range(0, len(ids), block_tokens):
            raw = ids[start : start + block_tokens].astype(np.dtype(dtype).newbyteorder("<"))
            key = f"{len(blocks):06d}"
            token_offset = _add(tar, f"{key}.tokens.npy", raw)
            docs = (starts[(start <= starts) & (starts < start + len(raw))] - start).astype("<u4")
            docs_offset = _add(tar, f"{key}.docs.npy", docs)
            hashes = xxh3_64_intdigest(raw.tobytes()), xxh3_64_intdigest(docs.tobytes())
            blocks.append(Block(key, token_offset, len(raw), hashes[0], docs_offset, len(docs), hashes[1]))
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    unit, count = f"unit{number}", len(documents)
    return Shard(split, source, path.name, len(ids), count, len(content), sha256, unit, tuple(blocks))


def _add(tar: tarfile.TarFile, name: str, array: np.ndarray) -> int:
    """Append an array as a member; returns the byte offset of its first element in the tar."""
    data = io.BytesIO()
    np.save(data, array)
    member = tarfile.TarInfo(name)
    member.size = data.tell()
    offset = tar.offset + tarfile.BLOCKSIZE + data.tell() - array.nbytes
    data.seek(0)
    tar.addfile(member, data)
    return offset
