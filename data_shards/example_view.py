"""Examples read back from a shard: where they end, how much is filling, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_shards.dataset import Dataset
from data_shards.examples import example_ends
from data_shards.loss_bit import counted_tokens, token_ids
from data_shards.manifest import ExampleLayout, Shard
from data_shards.shard_view import ShardView
from data_shards.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Piece:
    """A part of an example as text, and whether it is learned."""

    text: str
    is_learned: bool


def example_pieces(stored: np.ndarray, layout: ExampleLayout, tokenizer: TextTokenizer) -> list[Piece]:
    """What an example says, cut where the loss begins or ends to count; without the filling behind it.

    The class of a classification shows as its name, an end mark as <|endoftext|>.
    """
    end = int(example_ends(stored, np.zeros(1, np.int64))[0]) or len(stored)
    counted, ids = counted_tokens(stored[:end]), token_ids(stored[:end])
    borders = np.flatnonzero(np.diff(counted)) + 1
    pieces = []
    for learned, part in zip(np.split(counted, borders), np.split(ids, borders), strict=True):
        is_learned = bool(learned[0])
        is_class = is_learned and layout.task == "class"
        text = layout.classes[int(part[0])] if is_class else tokenizer.decode(part)
        pieces.append(Piece(text, is_learned))
    return pieces


def marked(pieces: Sequence[Piece]) -> str:
    """The text of an example in which what is learned stands in brackets."""
    return "".join(f"⟦{piece.text}⟧" if piece.is_learned else piece.text for piece in pieces)


def example_lengths(dataset: Dataset, shard: Shard) -> np.ndarray:
    """Tokens of each example of a shard to its last one that counts, int64 [examples]."""
    view = ShardView(dataset, shard)
    starts = view.document_starts()
    lengths: np.ndarray = example_ends(view.stored(0, shard.tokens), starts) - starts
    return lengths


def example_facts(dataset: Dataset, shards: Sequence[Shard]) -> dict[str, Any] | None:
    """Of the tokens of the shards the shares that are filling and that are learned, and the examples of each class.

    None where the dataset has text, or there is no shard.
    """
    layout = dataset.examples
    if layout is None or not shards:
        return None
    filling = learned = 0
    numbers: Counter[int] = Counter()
    for shard in shards:
        stored = ShardView(dataset, shard).stored(0, shard.tokens)
        counted = counted_tokens(stored)
        learned += int(counted.sum())
        filling += shard.tokens - int(example_lengths(dataset, shard).sum())
        if layout.classes:
            numbers.update(token_ids(stored[counted]).tolist())
    total = sum(shard.tokens for shard in shards)
    return {
        "seq_len": layout.seq_len,
        "task": layout.task,
        "filling_share": filling / total,
        "learned_share": learned / total,
        "classes": {name: numbers[number] for number, name in enumerate(layout.classes)},
    }


def example_problems(dataset: Dataset, view: ShardView) -> Iterator[str]:
    """What of a shard of examples is not as its layout says; the starts are known to rise from 0."""
    layout, starts = dataset.examples, view.document_starts()
    assert layout is not None
    stored = view.stored(0, view.shard.tokens)
    counted = counted_tokens(stored)
    rows, extra = divmod(len(stored) - 1, layout.seq_len)
    if extra or not np.array_equal(np.unique(starts // layout.seq_len), np.arange(rows)):
        yield f"it has {len(stored)} tokens, which are not rows of {layout.seq_len} with an example in each, and one"
    ends = example_ends(stored, starts)
    if np.any(ends == starts):
        yield f"nothing is learned of {int(np.sum(ends == starts))} examples"
    if np.any(starts // layout.seq_len != (ends - 1) // layout.seq_len):
        yield "an example does not lie in one row"
    steps = np.zeros(len(stored) + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    if np.any(stored[np.cumsum(steps)[:-1] == 0] != dataset.eot_id):
        yield f"what stands between examples is not all end marks (token {dataset.eot_id})"
    labels = token_ids(stored[counted])
    if layout.classes and (len(labels) != len(starts) or np.any(labels >= len(layout.classes))):
        yield f"not every example has one of the {len(layout.classes)} classes"
