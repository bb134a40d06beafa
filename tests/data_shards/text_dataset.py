"""Datasets of given texts, written by tarfile and numpy: what `prepare` makes, without it."""

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from data_shards.blocks import Block
from data_shards.dataset import REJECTS_FILE, Dataset, UnitNote, commit
from data_shards.manifest import Shard, dataset_fingerprint, manifest_order
from data_shards.rejects import rejects_table
from data_shards.tokenizer import TextTokenizer, load_tokenizer, save_tokenizer, train_tokenizer

_WORDS = ("tide", "über", "三国", "mill", "\U0001f600", "wheel", "sluice", "naïve", "<|endoftext|>", "race")


def line(number: int, words: int = 12) -> str:
    """A text that differs by its number, in several scripts."""
    return f"{number} " + " ".join(_WORDS[(number * 7 + i * i) % len(_WORDS)] for i in range(words))


def text_dataset(
    folder: Path,
    sources: Mapping[str, Sequence[str]],
    *,
    val: Mapping[str, Sequence[str]] | None = None,
    documents_per_shard: int = 5,
    block_tokens: int = 64,
    notes: Mapping[str, UnitNote] | None = None,
) -> Dataset:
    """A committed dataset with the documents of each source in its order, so many to a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for own in (*sources.values(), *(val or {}).values()) for text in own]
    save_tokenizer(train_tokenizer(texts, 300), folder / "tokenizer.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    shards = []
    for split, of_split in (("train", sources), ("val", val or {})):
        parts = [
            (source, own[start : start + documents_per_shard])
            for source, own in of_split.items()
            for start in range(0, len(own), documents_per_shard)
        ]
        shards += [
            _write_shard(folder, f"{split}-{number:05d}.tar", source, part, tokenizer, block_tokens)
            for number, (source, part) in enumerate(parts)
        ]
    dataset = Dataset(
        dir=folder,
        fingerprint=dataset_fingerprint(tokenizer.fingerprint, shards),
        tokenizer_fingerprint=tokenizer.fingerprint,
        corpus_fingerprint="c",
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        dtype="uint16",
        shards=manifest_order(shards),
        unit_notes=notes or {},
    )
    placed = [(unit, "a", note.places) for unit, note in dataset.unit_notes.items()]
    commit(dataset, {REJECTS_FILE: rejects_table(placed)} if any(places for _, _, places in placed) else {})
    return dataset


def document_ids(dataset: Dataset, text: str) -> list[int]:
    """The tokens of a document, end mark included."""
    return [*load_tokenizer(dataset.tokenizer_path).encode([text])[0].tolist(), dataset.eot_id]


def _write_shard(
    folder: Path, name: str, source: str, texts: Sequence[str], tokenizer: TextTokenizer, block_tokens: int
) -> Shard:
    documents = [np.append(ids, tokenizer.eot_id).astype("<u2") for ids in tokenizer.encode(list(texts))]
    ids, lengths = np.concatenate(documents), np.array([len(document) for document in documents])
    starts = np.cumsum(lengths) - lengths
    blocks = []
    with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for first in range(0, len(ids), block_tokens):
            key, part = f"{len(blocks):06d}", ids[first : first + block_tokens]
            docs = (starts[(starts >= first) & (starts < first + block_tokens)] - first).astype("<u4")
            offsets = _add(tar, f"{key}.tokens.npy", part), _add(tar, f"{key}.docs.npy", docs)
            hashes = xxh3_64_intdigest(part.tobytes()), xxh3_64_intdigest(docs.tobytes())
            blocks.append(Block(key, offsets[0], len(part), hashes[0], offsets[1], len(docs), hashes[1]))
    data = (folder / name).read_bytes()
    return Shard(
        split=name.partition("-")[0],
        source=source,
        path=name,
        tokens=len(ids),
        documents=len(texts),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        unit=name,
        blocks=tuple(blocks),
        text_bytes=sum(len(text.encode()) for text in texts),
    )


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
