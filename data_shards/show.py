"""A document, or a sequence as a model is given it, as text and tokens."""

from dataclasses import dataclass, field

import numpy as np

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.example_view import Piece, example_pieces
from data_shards.loss_bit import counted_tokens, token_ids
from data_shards.manifest import ExampleLayout, Shard
from data_shards.order import Order
from data_shards.packing import label_mask, separates_documents
from data_shards.permutation import Int64Array
from data_shards.pool import sequence_counts
from data_shards.shard_view import ShardView
from data_shards.tokenizer import TextTokenizer, load_tokenizer


@dataclass(frozen=True)
class Segment:
    """What is shown of one document."""

    place: int  # of its first token, in what is shown
    ids: list[int]  # the end mark, if it is there, among them
    text: str  # without the end mark; a character that is cut by a border shows as U+FFFD
    has_start: bool
    has_end: bool  # the last token is the end mark
    pieces: list[Piece] = field(default_factory=list)  # of an example: `text`, cut where what is learned begins or ends


@dataclass(frozen=True)
class Shown:
    """Tokens [first_token, first_token + tokens) of a shard, cut at documents' borders.

    A sequence of T tokens has T + 1: each but the last is an input, each but the first the label of the one before.
    masked_labels: places, in what is shown, of labels that are not trained on.
    """

    kind: str  # "document" or "sequence"
    number: int
    split: str
    source: str
    shard: str  # path in the dataset
    first_token: int  # in the shard
    tokens: int
    segments: list[Segment]
    masked_labels: list[int]


def show(dataset: Dataset, n: int, split: str = "train") -> str:
    """The text of document `n` (from 0, in manifest order) of a split, without its end mark.

    Raises DataError where there is no such document.
    """
    return show_document(dataset, n, split).segments[0].text


def show_document(dataset: Dataset, n: int, split: str) -> Shown:
    """Document `n` of a split, counted from 0 in manifest order; DataError where there is none."""
    shard, inside = _place(dataset, split, n, [shard.documents for shard in dataset.split(split)], "document")
    starts = ShardView(dataset, shard).document_starts()
    stop = int(starts[inside + 1]) if inside + 1 < len(starts) else shard.tokens
    return _shown(dataset, shard, "document", n, int(starts[inside]), stop, "stream")


def show_sequence(dataset: Dataset, order: Order, position: int, packing: str) -> Shown:
    """The training sequence at a position of an order that was made of this dataset; DataError if it is negative."""
    if position < 0:
        raise DataError(f"the position in the order of training must be 0 or more, found {position}")
    numbers, firsts = order.locate(np.array([position]))
    shard, first = dataset.split("train")[int(numbers[0])], int(firsts[0])
    return _shown(dataset, shard, "sequence", position, first, first + _shown_tokens(dataset, order.seq_len), packing)


def show_held_out_sequence(dataset: Dataset, n: int, seq_len: int, packing: str) -> Shown:
    """Sequence `n` of the validation split, from 0 in the order of evaluation; DataError where there is none."""
    counts = sequence_counts(np.array([shard.tokens for shard in dataset.split("val")], dtype=np.int64), seq_len)
    shard, inside = _place(dataset, "val", n, counts.tolist(), f"sequence of {seq_len} tokens")
    first = inside * seq_len
    return _shown(dataset, shard, "sequence", n, first, first + _shown_tokens(dataset, seq_len), packing)


def _shown_tokens(dataset: Dataset, seq_len: int) -> int:
    """Those of a sequence; of a row of examples without the last label, which begins another row."""
    return seq_len + (dataset.examples is None)


def _place(dataset: Dataset, split: str, n: int, sizes: list[int], kind: str) -> tuple[Shard, int]:
    """The shard that holds the n-th of something, and its number in the shard."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    if not 0 <= n < total:
        raise DataError(f"{dataset.dir}: {split} has no {kind} number {n}: it has {total}, counted from 0")
    index = int(np.searchsorted(ends, n, side="right"))
    return dataset.split(split)[index], n - (int(ends[index]) - sizes[index])


def _shown(dataset: Dataset, shard: Shard, kind: str, number: int, start: int, stop: int, packing: str) -> Shown:
    view = ShardView(dataset, shard)
    starts = view.document_starts()
    borders = starts[(starts > start) & (starts < stop)] - start
    stored = view.stored(start, stop)
    tokenizer = load_tokenizer(dataset.tokenizer_path)
    if dataset.examples is None:
        segments = _segments(stored, borders, bool((starts == start).any()), dataset.eot_id, tokenizer)
        masked = _masked_labels(borders, len(stored) - 1) if separates_documents(packing) else []
    else:
        segments = _examples(stored, borders, dataset.examples, dataset.eot_id, tokenizer)
        masked = (np.flatnonzero(~counted_tokens(stored)[1:]) + 1).tolist()
    return Shown(
        kind=kind,
        number=number,
        split=shard.split,
        source=shard.source,
        shard=shard.path,
        first_token=start,
        tokens=len(stored),
        segments=segments,
        masked_labels=masked,
    )


def _masked_labels(borders: Int64Array, seq_len: int) -> list[int]:
    places: list[int] = (np.flatnonzero(~label_mask([borders], seq_len)[0]) + 1).tolist()
    return places


def _segments(
    ids: np.ndarray, borders: Int64Array, starts_document: bool, eot_id: int, tokenizer: TextTokenizer
) -> list[Segment]:
    segments: list[Segment] = []
    for place, part in zip([0, *borders.tolist()], np.split(ids, borders), strict=True):
        has_end = int(part[-1]) == eot_id
        text = tokenizer.decode(part[:-1] if has_end else part)
        segments.append(Segment(place, part.tolist(), text, starts_document or bool(segments), has_end))
    return segments


def _examples(
    stored: np.ndarray, borders: Int64Array, layout: ExampleLayout, eot_id: int, tokenizer: TextTokenizer
) -> list[Segment]:
    """Examples with what is learned of each; filling shows in the ids alone."""
    segments = []
    for place, part in zip([0, *borders.tolist()], np.split(stored, borders), strict=True):
        pieces, ids = example_pieces(part, layout, tokenizer), token_ids(part).tolist()
        text = "".join(piece.text for piece in pieces)
        segments.append(Segment(place, ids, text, True, ids[-1] == eot_id, pieces))
    return segments
