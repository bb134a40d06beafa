"""A dataset in numbers, and the unigram model that any training must beat."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from data_shards.balance import balance, max_over_mean
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.example_view import example_facts, example_lengths
from data_shards.lengths import LengthHistogram
from data_shards.loader import train_order
from data_shards.loss_bit import counted_tokens, token_ids
from data_shards.manifest import SPLITS, Shard, counts
from data_shards.pool import sequence_counts
from data_shards.rejects import Reject
from data_shards.sample import sample_documents, sample_text
from data_shards.scripts import CLASSES, count_classes
from data_shards.settings import DataSettings
from data_shards.shard_reader import ShardReader
from data_shards.shard_view import ShardView
from data_shards.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

# Of a larger split so many shards, drawn at random, stand for all in the distribution of lengths.
MOST_SHARDS = 1024
MOST_REMOTE_SHARDS = 16  # each is fetched whole
SAMPLE_BYTES = 2_000_000
EXAMPLES, MOST_SOURCES = 3, 50
MOST_REJECTS = 100
BALANCE_WORLD, BALANCE_SEQ_LEN = 8, 1024
_COUNTS = ("tokens", "documents", "shards", "bytes", "text_bytes")
_SEED = 0


def describe(dataset: Dataset, most_shards: int = MOST_SHARDS) -> dict[str, Any]:
    """Numbers of a dataset for people and programs.

    For each split, and each source in it: tokens, documents, shards, bytes on disk and of text, bytes of text per
    token, tokens per document (end mark included: least, quantiles, mean, greatest, and a histogram), and a source's
    share of the split's tokens. A split of more than `most_shards` shards has its lengths from a seeded sample of so
    many (`shards_read` says of how many), its counts from all. Of the records that were left out: how many for each
    reason, and the first hundred places.
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
        "reject_places": [asdict(reject) for reject in _first_rejects(dataset)],
        "splits": {split: _describe_split(dataset, split, table[split], most_shards) for split in SPLITS},
    }


def describe_text(dataset: Dataset, sample_bytes: int = SAMPLE_BYTES, seed: int = _SEED) -> dict[str, dict[str, Any]]:
    """What the text of each source looks like, by name: share of characters in each script, and examples.

    From a seeded sample of about `sample_bytes` of the source's text (`sampled_characters` says how much it was);
    its shards of all splits are taken together. Of more than 50 sources the largest are described.
    """
    tokenizer = load_tokenizer(dataset.tokenizer_path)
    described = {}
    for name, shards in _largest_sources(dataset.shards).items():
        characters: Counter[str] = Counter()
        for text in sample_text(dataset, shards, tokenizer, sample_bytes=sample_bytes, seed=seed):
            characters.update(count_classes(text))
        examples = sample_documents(dataset, shards, tokenizer, number=EXAMPLES, seed=seed)
        described[name] = {
            "sampled_characters": characters.total(),
            "scripts": {kind: _ratio(characters[kind], characters.total()) or 0.0 for kind in CLASSES},
            "examples": [asdict(example) for example in examples],
        }
    return described


def describe_balance(dataset: Dataset) -> dict[str, Any]:
    """How even the training shards are: a histogram of their tokens, and the balance of an epoch over 8 ranks.

    The balance is that of sequences of 1,024 tokens (of examples, their rows) in the default order; None where no
    shard holds a whole sequence.
    """
    seq_len = BALANCE_SEQ_LEN if dataset.examples is None else dataset.examples.seq_len
    shards = dataset.split("train")
    tokens = np.array([shard.tokens for shard in shards], dtype=np.int64)
    sizes = LengthHistogram()
    sizes.add(tokens)
    described: dict[str, Any] = {"shard_tokens": sizes.summary(), "histogram": sizes.log_bins(), "ranks": None}
    if sequence_counts(tokens, seq_len).any():
        fields = DataSettings.model_fields
        streams, window = fields["streams"].default, fields["shuffle_window"].default
        order = train_order(dataset, seq_len=seq_len, seed=_SEED, streams=streams, window=window, weights=None)
        found = balance(order, tokens, BALANCE_WORLD)
        described["ranks"] = {
            "world": BALANCE_WORLD,
            "seq_len": seq_len,
            "tokens": found.load.tokens.tolist(),
            "max_over_mean": max_over_mean(found.load.tokens),
            "round_robin": found.round_robin,
            "longest_first": found.longest_first,
        }
    return described


def unigram_loss(
    dataset: Dataset,
    label_ids: np.ndarray,
    sample_tokens: int = 64_000_000,
    on_bad_shard: Literal["fail", "skip"] = "fail",
) -> float:
    """Loss of the unigram model on `label_ids`, in nats per token; 0.0 of no labels.

    The model counts the first `sample_tokens` training tokens in manifest order, with one added to each token's count
    (Laplace smoothing), so that it gives every token of the vocabulary a chance. With `skip` it does without the
    shards that are missing or damaged, and logs a warning.

    Raises: DataError with `fail` if a shard that it counts is missing or damaged.
    """
    numbers = np.ones(dataset.vocab_size, dtype=np.float64)
    left, failures = sample_tokens, []
    for shard in dataset.split("train"):
        if left <= 0:
            break
        try:
            numbers += _token_counts(dataset, shard, left)
        except DataError as error:
            if on_bad_shard == "fail":
                raise
            failures.append(error)
        else:
            left -= shard.tokens
    if failures:
        logger.warning("shards that the unigram model does without: %d; the first: %s", len(failures), failures[0])
    log_probabilities = np.log(numbers) - np.log(numbers.sum())
    return float(-log_probabilities[label_ids].mean()) if len(label_ids) else 0.0


def _token_counts(dataset: Dataset, shard: Shard, most: int) -> np.ndarray:
    """How often each token is among the first `most` of a shard, int64 [V]; DataError if their blocks are damaged.

    Of examples those alone that the loss counts.
    """
    ShardReader(dataset, [shard]).prove(0, 0, min(most, shard.tokens), with_documents=False)
    view, numbers = ShardView(dataset, shard), np.zeros(dataset.vocab_size, np.int64)
    for first, block in view.placed_blocks():
        if first < most:
            stored = view.tokens_of(block)[: most - first]
            ids = token_ids(stored[counted_tokens(stored)]) if dataset.has_loss_bit else stored
            numbers += np.bincount(ids, minlength=dataset.vocab_size)
    return numbers


def document_lengths(dataset: Dataset, shard: Shard) -> np.ndarray:
    """Tokens of each document of a shard, end mark included, int64, [documents]; of examples without filling."""
    if dataset.examples is not None:
        return example_lengths(dataset, shard)
    return np.diff(ShardView(dataset, shard).document_starts(), append=shard.tokens)


def _describe_split(
    dataset: Dataset, split: str, sources: dict[str, dict[str, int]], most_shards: int
) -> dict[str, Any]:
    totals = {name: sum(row[name] for row in sources.values()) for name in _COUNTS}
    shards = _some(dataset.split(split), most_shards)
    whole = LengthHistogram()
    by_source = {source: LengthHistogram() for source in sources}
    for shard in shards:
        by_source[shard.source].add(document_lengths(dataset, shard))
    for histogram in by_source.values():
        whole.merge(histogram)
    return {
        **_describe_counts(totals, whole),
        "shards_read": len(shards),
        "examples": example_facts(dataset, shards),
        "sources": {
            source: {
                **_describe_counts(row, by_source[source]),
                "token_share": _ratio(row["tokens"], totals["tokens"]),
            }
            for source, row in sources.items()
        },
    }


def _describe_counts(row: dict[str, int], lengths: LengthHistogram) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _COUNTS},
        "text_bytes_per_token": _ratio(row["text_bytes"], row["tokens"]),
        "tokens_per_document": lengths.summary(),
        "lengths": lengths.log_bins(),
    }


def _some(shards: Sequence[Shard], most: int) -> Sequence[Shard]:
    """All shards, or a seeded sample of `most`, in their order."""
    if len(shards) <= most:
        return shards
    chosen = np.random.default_rng(_SEED).choice(len(shards), size=most, replace=False)
    return [shards[index] for index in sorted(chosen.tolist())]


def _largest_sources(shards: Sequence[Shard]) -> dict[str, list[Shard]]:
    """The shards of each of the MOST_SOURCES sources with most tokens, in the order of the manifest."""
    table: dict[str, list[Shard]] = {}
    for shard in shards:
        table.setdefault(shard.source, []).append(shard)
    tokens = {source: sum(shard.tokens for shard in own) for source, own in table.items()}
    chosen = sorted(tokens, key=lambda source: -tokens[source])[:MOST_SOURCES]
    return {source: own for source, own in table.items() if source in chosen}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _skipped(dataset: Dataset) -> dict[str, int]:
    total: Counter[str] = Counter()
    for note in dataset.unit_notes.values():
        total.update(note.skipped)
    return dict(sorted(total.items()))


def _first_rejects(dataset: Dataset) -> list[Reject]:
    """By file and line: a unit's key says nothing of where it stands in the corpus."""
    rejects = [reject for note in dataset.unit_notes.values() for reject in note.places]
    return sorted(rejects, key=lambda reject: _natural(reject.where))[:MOST_REJECTS]


def _natural(text: str) -> list[tuple[str, int]]:
    """A sorting key for which a.txt:9 stands before a.txt:10."""
    return [(words, int(digits or 0)) for words, digits in re.findall(r"(\D*)(\d*)", text)]
