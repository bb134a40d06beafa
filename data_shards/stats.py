"""A dataset in numbers, and the unigram model that any training must beat."""

from typing import Any

import numpy as np

from data_shards.dataset import Dataset
from data_shards.manifest import SPLITS, counts
from data_shards.shard_view import ShardView


def describe(dataset: Dataset) -> dict[str, Any]:
    """Numbers of a dataset for people and programs.

    For each split: tokens, documents, shards, bytes on disk and of text, bytes of text per token, tokens per document
    (end mark included), and for each source its counts and its share of the split's tokens.
    """
    table = counts(dataset.shards)
    return {
        "dir": str(dataset.dir),
        "fingerprint": dataset.fingerprint,
        "tokenizer_fingerprint": dataset.tokenizer_fingerprint,
        "corpus_fingerprint": dataset.corpus_fingerprint,
        "vocab_size": dataset.vocab_size,
        "dtype": dataset.dtype,
        "empty_documents": sum(note.empty for note in dataset.unit_notes.values()),
        "skipped_records": _skipped(dataset),
        "splits": {split: _describe_split(dataset, split, table[split]) for split in SPLITS},
    }


def unigram_loss(dataset: Dataset, label_ids: np.ndarray, sample_tokens: int = 64_000_000) -> float:
    """Loss of the unigram model on `label_ids`, in nats per token; 0.0 of no labels.

    The model counts the first `sample_tokens` training tokens in manifest order, with one added to each token's count
    (Laplace smoothing), so that it gives every token of the vocabulary a chance.
    """
    numbers = np.ones(dataset.vocab_size, dtype=np.float64)
    left = sample_tokens
    for shard in dataset.split("train"):
        view = ShardView(dataset, shard) if left else None
        for block in shard.blocks if view else ():
            tokens = view.tokens_of(block)[:left] if view else np.empty(0)
            numbers += np.bincount(tokens, minlength=dataset.vocab_size)
            left -= len(tokens)
    log_probabilities = np.log(numbers) - np.log(numbers.sum())
    return float(-log_probabilities[label_ids].mean()) if len(label_ids) else 0.0


def document_lengths(dataset: Dataset, split: str) -> np.ndarray:
    """Tokens of each document of a split, end mark included, int64, [documents]."""
    lengths = [
        np.diff(ShardView(dataset, shard).document_starts(), append=shard.tokens) for shard in dataset.split(split)
    ]
    return np.concatenate(lengths) if lengths else np.empty(0, np.int64)


def _describe_split(dataset: Dataset, split: str, sources: dict[str, dict[str, int]]) -> dict[str, Any]:
    names = ("tokens", "documents", "shards", "bytes", "text_bytes")
    totals: dict[str, Any] = {name: sum(row[name] for row in sources.values()) for name in names}
    lengths = document_lengths(dataset, split)
    return {
        **totals,
        "text_bytes_per_token": _ratio(totals["text_bytes"], totals["tokens"]),
        "tokens_per_document": _spread(lengths),
        "sources": {
            source: {**row, "token_share": _ratio(row["tokens"], totals["tokens"])} for source, row in sources.items()
        },
    }


def _spread(lengths: np.ndarray) -> dict[str, float] | None:
    if len(lengths) == 0:
        return None
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": float(lengths.mean()),
        "max": int(lengths.max()),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _skipped(dataset: Dataset) -> dict[str, int]:
    total: dict[str, int] = {}
    for note in dataset.unit_notes.values():
        for reason, number in note.skipped.items():
            total[reason] = total.get(reason, 0) + number
    return dict(sorted(total.items()))
