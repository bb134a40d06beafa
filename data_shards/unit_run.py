"""One unit's documents on their way from the reader to the shards of their splits."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_shards.batches import PART_BYTES, Batch, Place, TextBatch, TokenBatch, split_checksums
from data_shards.document_flow import DocumentFlow
from data_shards.encoder import Encoder, Flat
from data_shards.end_marks import without_last_end_marks
from data_shards.rejects import Rejects, shown
from data_shards.sentences import sentence_pairs
from data_shards.tokenizer import TextTokenizer
from data_shards.unit_output import SplitOutput
from data_shards.units import SplitRule

logger = logging.getLogger(__name__)

TryTexts = Callable[[Sequence[str]], Mapping[int, str]]
"""Of texts those that end the process which encodes them, and how."""


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

        def checksums(places: Sequence[int]) -> list[int]:
            return split_checksums(texts if len(places) == len(texts) else [texts[i] for i in places])

        def write(split: str, places: Sequence[int], unfinished: bool) -> None:
            chosen = texts if len(places) == len(texts) else [texts[i] for i in places]
            if self._in_pairs:
                chosen, unfinished = [pair for text in chosen for pair in sentence_pairs(text)], False
            ids, offsets = self._encoder.encode_flat(chosen)
            # After the encoder, which leaves their UTF-8 with the strings that are not ASCII.
            size = sum([len(text) if text.isascii() else len(text.encode()) for text in chosen])
            self._outputs[split].add(ids, offsets, size, unfinished=unfinished)

        self._distribute(len(texts), batch.unfinished, bad, checksums, write)

    def _add_tokens(self, batch: TokenBatch) -> None:
        batch = without_last_end_marks(batch, self._tokenizer.eot_id)
        ids, offsets = batch.ids, batch.offsets
        sizes = self._tokenizer.token_bytes

        def checksums(places: Sequence[int]) -> list[int]:
            return [zlib.crc32(ids[offsets[i] : offsets[i + 1]].astype("<u4").tobytes()) for i in places]

        def write(split: str, places: Sequence[int], unfinished: bool) -> None:
            own_ids, own_offsets = _gathered(ids, offsets, places)
            self._outputs[split].add(own_ids, own_offsets, int(sizes[own_ids].sum()), unfinished=unfinished)

        # The last part of a document may be empty, another document may not.
        empty = set(np.flatnonzero(offsets[1:] == offsets[:-1]).tolist())
        if self._flow.within_document:
            empty.discard(0)
        self._rejects.empty += len(empty)
        bad = {*self._unusable(batch), *empty}
        self._distribute(len(offsets) - 1, batch.unfinished, bad, checksums, write)

    def _distribute(
        self,
        documents: int,
        unfinished: bool,
        bad: Collection[int],
        checksums: Callable[[Sequence[int]], list[int]],
        write: Callable[[str, Sequence[int], bool], None],
    ) -> None:
        """Have each split's documents written, in order; their splits are chosen by their checksums."""
        continued = self._flow.within_document and 0 not in bad
        kept = self._flow.kept(documents, unfinished, bad)
        if not kept:
            return
        held_out = self._held_out(kept, continued, checksums)
        last_split = "val" if held_out[-1] else "train"
        if self._flow.within_document:
            self._unfinished_split = last_split
        places = np.asarray(kept)
        for split, own in (("train", places[~held_out].tolist()), ("val", places[held_out].tolist())):
            is_last_unfinished = self._flow.within_document and split == last_split
            whole = own[:-1] if is_last_unfinished else own
            if whole:
                write(split, whole, False)
            if is_last_unfinished:
                if whole or not continued:
                    self._outputs[split].mark()
                write(split, own[-1:], True)

    def _held_out(
        self, kept: Sequence[int], continued: bool, checksums: Callable[[Sequence[int]], list[int]]
    ) -> NDArray[np.bool_]:
        """Whether documents are for validation, [documents]."""
        if self._rule.kind != "hash":
            return np.full(len(kept), self._rule.kind == "val")
        held_out = self._rule.held_out(np.array(checksums(kept), dtype=np.uint64))
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


def _gathered(ids: NDArray[np.uint32], offsets: NDArray[np.int64], places: Sequence[int]) -> Flat:
    """The documents at `places`, which rise."""
    first, last = places[0], places[-1]
    if last - first == len(places) - 1:
        own = offsets[first : last + 2]
        return ids[own[0] : own[-1]], own - own[0]
    chosen = np.asarray(places)
    own = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(offsets[chosen + 1] - offsets[chosen], out=own[1:])
    return np.concatenate([ids[offsets[i] : offsets[i + 1]] for i in places]), own


def _place(place: Place | None, document: int) -> str:
    return "a document" if place is None else place(document)
