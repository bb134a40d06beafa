"""One unit's documents on their way from the reader to the shards of their splits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_shards.batches import PART_BYTES, Batch, Place, TextBatch, TokenBatch
from data_shards.document_flow import DocumentFlow
from data_shards.encoder import Encoder, Flat
from data_shards.end_marks import without_last_end_marks
from data_shards.rejects import Rejects, shown
from data_shards.sentences import sentence_pairs
from data_shards.tokenizer import TextTokenizer
from data_shards.unit_output import SplitOutput
from data_shards.units import SplitRule, split_hash

logger = logging.getLogger(__name__)

TryTexts = Callable[[Sequence[str]], Mapping[int, str]]
"""Of texts those that end the process which encodes them, and how."""


@dataclass(frozen=True, slots=True)
class _Documents:
    """Documents, at least one, as tokens: piece i is ids[offsets[i]:offsets[i + 1]]."""

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]  # [pieces + 1]
    first_pieces: NDArray[np.int64] | None  # [documents + 1]; None if each document is one piece
    split_hashes: NDArray[np.uint64]  # [documents], `split_hash` of the text, or of the ids as little-endian uint32
    text_bytes: NDArray[np.int64]  # [documents]

    def tokens_of(self, places: NDArray[np.int64]) -> Flat:
        """The pieces of the documents at `places`, which rise."""
        if self.first_pieces is None:
            return _gathered(self.ids, self.offsets, places)
        own = [np.arange(self.first_pieces[i], self.first_pieces[i + 1]) for i in places.tolist()]
        return _gathered(self.ids, self.offsets, np.concatenate(own))


class UnitRun:
    """Splits, encodes and writes batches. A document goes wholly to one split, by its first part."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        encoder: Encoder,
        rule: SplitRule,
        outputs: Mapping[str, SplitOutput],
        rejects: Rejects,
        *,
        in_pairs: bool = False,
        try_texts: TryTexts | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._rule = rule
        self._outputs = outputs
        self._rejects = rejects
        self._in_pairs = in_pairs
        self._try_texts = try_texts
        self._flow = DocumentFlow(lambda: outputs[self._unfinished_split].withdraw())
        self._unfinished_split = ""
        self._has_told_of_parts = False

    def add(self, batch: Batch) -> None:
        """Write a batch to the shards. Raises DataError under `fail` for a bad document."""
        if isinstance(batch, TextBatch):
            self._add_texts(batch)
        elif isinstance(batch, TokenBatch):
            self._add_tokens(batch)
        else:
            self._flow.withdraw()

    def _add_texts(self, batch: TextBatch) -> None:
        texts = batch.texts
        if batch.unfinished and not self._has_told_of_parts and not self._tokenizer.borders_hold:
            logger.warning(
                "documents of more than %d bytes are cut, and this tokenizer's tokens may be others there than those "
                "of the uncut text",
                PART_BYTES,
            )
            self._has_told_of_parts = True
        bad = self._killers(batch) if self._try_texts is not None else ()
        continued = self._flow.within_document and 0 not in bad
        kept = self._flow.kept(len(texts), batch.unfinished, bad)
        if kept:
            chosen = texts if len(kept) == len(texts) else [texts[i] for i in kept]
            self._distribute(self._encoded(chosen), continued)

    def _encoded(self, texts: list[str]) -> _Documents:
        pieces, first = texts, None
        if self._in_pairs:
            pairs = [sentence_pairs(text) for text in texts]
            pieces = [pair for own in pairs for pair in own]
            first = np.cumsum([0, *map(len, pairs)])
        ids, offsets = self._encoder.encode_flat(pieces)
        # After the encoder, which leaves their UTF-8 with the strings that are not ASCII.
        data = [text.encode() for text in texts]
        split_hashes = np.array([*map(split_hash, data)], dtype=np.uint64)
        return _Documents(ids, offsets, first, split_hashes, np.array([*map(len, data)]))

    def _add_tokens(self, batch: TokenBatch) -> None:
        batch = without_last_end_marks(batch, self._tokenizer.eot_id)
        ids, offsets = batch.ids, batch.offsets
        # The last part of a document may be empty, another document may not.
        empty = set(np.flatnonzero(offsets[1:] == offsets[:-1]).tolist())
        if self._flow.within_document:
            empty.discard(0)
        self._rejects.empty += len(empty)
        bad = {*self._unusable(batch), *empty}
        continued = self._flow.within_document and 0 not in bad
        kept = self._flow.kept(len(offsets) - 1, batch.unfinished, bad)
        if not kept:
            return
        ids, offsets = _gathered(ids, offsets, np.asarray(kept))
        bounds = list(pairwise(offsets.tolist()))
        split_hashes = np.array([split_hash(ids[i:j].astype("<u4").tobytes()) for i, j in bounds], dtype=np.uint64)
        ends = np.concatenate([[0], np.cumsum(self._tokenizer.token_bytes[ids])])
        self._distribute(_Documents(ids, offsets, None, split_hashes, np.diff(ends[offsets])), continued)

    def _distribute(self, documents: _Documents, continued: bool) -> None:
        """Write each document to the shard of its split, in order.

        With `continued` the first one goes on with the unfinished one before it.
        """
        held_out = self._held_out(documents.split_hashes, continued)
        last_split = "val" if held_out[-1] else "train"
        if self._flow.within_document:
            self._unfinished_split = last_split
        for split, own in (("train", np.flatnonzero(~held_out)), ("val", np.flatnonzero(held_out))):
            is_last_unfinished = self._flow.within_document and split == last_split
            whole = own[:-1] if is_last_unfinished else own
            if len(whole):
                self._write(split, documents, whole, unfinished=False)
            if is_last_unfinished:
                if len(whole) or not continued:
                    self._outputs[split].mark()
                self._write(split, documents, own[-1:], unfinished=True)

    def _write(self, split: str, documents: _Documents, own: NDArray[np.int64], *, unfinished: bool) -> None:
        ids, offsets = documents.tokens_of(own)
        # A pair is a document of its own, so nothing of it goes on.
        unfinished = unfinished and documents.first_pieces is None
        self._outputs[split].add(ids, offsets, int(documents.text_bytes[own].sum()), unfinished=unfinished)

    def _held_out(self, split_hashes: NDArray[np.uint64], continued: bool) -> NDArray[np.bool_]:
        """Whether documents are for validation, [documents]."""
        if self._rule.kind != "hash":
            return np.full(len(split_hashes), self._rule.kind == "val")
        held_out = self._rule.held_out(split_hashes)
        if continued:
            held_out[0] = self._unfinished_split == "val"
        return held_out

    def _killers(self, batch: TextBatch) -> Collection[int]:
        """Rejects the texts that end the process which encodes them."""
        assert self._try_texts is not None
        texts = [sentence_pairs(text) if self._in_pairs else [text] for text in batch.texts]
        owners = [i for i, own in enumerate(texts) for _ in own]
        deaths: dict[int, str] = {}
        for place, death in self._try_texts([text for own in texts for text in own]).items():
            deaths.setdefault(owners[place], death)
        for i, death in deaths.items():
            found = f"{death}; it begins with {shown(batch.texts[i])!r}"
            self._rejects.reject("killed its worker", _place(batch.place, i), found)
        return deaths.keys()

    def _unusable(self, batch: TokenBatch) -> Collection[int]:
        """Rejects documents with ids that the tokenizer does not have, or with end marks in them."""
        size, eot_id = self._tokenizer.vocab_size, self._tokenizer.eot_id
        wrong = (batch.ids >= size) | (batch.ids == eot_id)
        if not wrong.any():
            return ()
        at = np.flatnonzero(wrong)
        documents, first = np.unique(np.searchsorted(batch.offsets, at, side="right") - 1, return_index=True)
        for document, id in zip(documents.tolist(), batch.ids[at[first]].tolist(), strict=True):
            reason = "an end mark within a document" if id == eot_id else "an id that the tokenizer does not have"
            self._rejects.reject(reason, _place(batch.place, document), f"id {id}, of {size}")
        return set(documents.tolist())


def _gathered(ids: NDArray[np.uint32], offsets: NDArray[np.int64], places: NDArray[np.int64]) -> Flat:
    """The documents at `places`, of which there is at least one, and which rise."""
    first, last = int(places[0]), int(places[-1])
    if last - first == len(places) - 1:
        own = offsets[first : last + 2]
        return ids[own[0] : own[-1]], own - own[0]
    own = np.zeros(len(places) + 1, dtype=np.int64)
    np.cumsum(offsets[places + 1] - offsets[places], out=own[1:])
    bounds = zip(offsets[places].tolist(), offsets[places + 1].tolist(), strict=True)
    return np.concatenate([ids[start:end] for start, end in bounds]), own


def _place(place: Place | None, document: int) -> str:
    return "a document" if place is None else place(document)
