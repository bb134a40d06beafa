"""A look at a source's text that costs the same however large the source is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_shards.dataset import Dataset
from data_shards.example_view import example_lengths, example_pieces, marked
from data_shards.manifest import Shard
from data_shards.shard_view import ShardView
from data_shards.tokenizer import TextTokenizer

_PIECE_TOKENS = 1024
_EXAMPLE_TOKENS = 120
# A remote dataset's shards are fetched whole, so few are looked into.
_MOST_SHARDS = 16
_USUAL_BYTES_PER_TOKEN = 4.0  # where the source held tokens, and the text's size is not known


@dataclass(frozen=True)
class Example:
    """The start of a document."""

    shard: str  # path in the dataset
    document: int  # in the shard, from 0
    tokens: int  # of the whole document, end mark included
    text: str
    is_whole: bool


def sample_text(
    dataset: Dataset, shards: Sequence[Shard], tokenizer: TextTokenizer, *, sample_bytes: int, seed: int
) -> Iterator[str]:
    """Text of `shards` without end marks: all of it if that is at most `sample_bytes`, else about so much.

    A sample is pieces of 1,024 tokens from random places of at most 16 shards, drawn with replacement by their tokens,
    so that every token is as likely to be in it; a character that a piece's border cuts is left out.
    """
    tokens = np.array([shard.tokens for shard in shards], dtype=np.int64)
    text_bytes = sum(shard.text_bytes for shard in shards)
    total = int(tokens.sum())
    wanted = int(sample_bytes * total / text_bytes) if text_bytes else int(sample_bytes / _USUAL_BYTES_PER_TOKEN)
    if total <= wanted:
        for shard in shards:
            yield _text(ShardView(dataset, shard), 0, shard.tokens, dataset, tokenizer)
        return
    pieces = -(-wanted // _PIECE_TOKENS)
    for shard, starts in _random_places(shards, tokens / total, pieces, np.random.default_rng(seed)):
        view = ShardView(dataset, shard)
        for start in starts:
            yield _text(view, start, start + _PIECE_TOKENS, dataset, tokenizer).strip("\ufffd")


def _text(view: ShardView, start: int, stop: int, dataset: Dataset, tokenizer: TextTokenizer) -> str:
    ids = view.tokens(start, stop)
    return tokenizer.decode(ids[ids != dataset.eot_id])


def _random_places(
    shards: Sequence[Shard], shares: np.ndarray, pieces: int, random: np.random.Generator
) -> Iterator[tuple[Shard, list[int]]]:
    draws = min(pieces, _MOST_SHARDS)
    for number, index in enumerate(random.choice(len(shards), size=draws, p=shares).tolist()):
        here = pieces // draws + (number < pieces % draws)
        shard = shards[index]
        yield shard, random.integers(0, max(1, shard.tokens - _PIECE_TOKENS + 1), size=here).tolist()


def sample_documents(
    dataset: Dataset, shards: Sequence[Shard], tokenizer: TextTokenizer, *, number: int, seed: int
) -> list[Example]:
    """The starts, 120 tokens at most, of `number` documents; all, in order, if there are not more.

    The shards are drawn by their documents and the documents in them evenly, without doubles.
    """
    documents = np.array([shard.documents for shard in shards], dtype=np.int64)
    ends = np.cumsum(documents)
    total = int(ends[-1])
    chosen = np.random.default_rng(seed).choice(total, size=number, replace=False) if total > number else range(total)
    examples = []
    for place in sorted(int(index) for index in chosen):
        index = int(np.searchsorted(ends, place, side="right"))
        inside = place - int(ends[index] - documents[index])
        examples.append(_example(dataset, ShardView(dataset, shards[index]), inside, tokenizer))
    return examples


def _example(dataset: Dataset, view: ShardView, document: int, tokenizer: TextTokenizer) -> Example:
    if dataset.examples is not None:
        return _fine_tuning_example(dataset, view, document, tokenizer)
    starts = view.document_starts()
    start = int(starts[document])
    end = int(starts[document + 1]) if document + 1 < len(starts) else view.shard.tokens
    shown = min(end - 1, start + _EXAMPLE_TOKENS)
    text = tokenizer.decode(view.tokens(start, shown))
    is_whole = shown == end - 1
    return Example(view.shard.path, document, end - start, text if is_whole else text.rstrip("\ufffd"), is_whole)


def _fine_tuning_example(dataset: Dataset, view: ShardView, document: int, tokenizer: TextTokenizer) -> Example:
    """The end of an example, since what is learned stands there."""
    assert dataset.examples is not None
    starts = view.document_starts()
    start, tokens = int(starts[document]), int(example_lengths(dataset, view.shard)[document])
    first = max(start, start + tokens - _EXAMPLE_TOKENS)
    pieces = example_pieces(view.stored(first, start + tokens), dataset.examples, tokenizer)
    text = marked(pieces)
    return Example(view.shard.path, document, tokens, text, first == start)
