"""Which documents of a batch are kept, where some are bad and where documents go on from batch to batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence


class DocumentFlow:
    """Follows one unit's documents: those that are left unfinished, and what a bad part of one means for the rest."""

    def __init__(self, withdraw: Callable[[], None]) -> None:
        self._withdraw = withdraw  # forgets the parts given so far of the unfinished document
        self.within_document = False  # the next document to be kept goes on with one that is unfinished
        self._dropping = False  # the unfinished document is bad

    def kept(self, documents: int, unfinished: bool, bad: Collection[int]) -> Sequence[int]:
        """The places, of 0 to `documents` - 1, of those to keep; their last one is unfinished if `within_document`.

        A document of which one part is bad is withdrawn and dropped as a whole.
        """
        if not documents:
            return ()
        first = 0
        if self.within_document and 0 in bad:
            self.withdraw()
            self._dropping = True
        if self._dropping:
            first = 1
            self._dropping = documents == 1 and unfinished
        kept = [i for i in range(first, documents) if i not in bad] if bad else range(first, documents)
        last_is_kept = bool(kept) and kept[-1] == documents - 1
        self._dropping = self._dropping or (unfinished and not last_is_kept)
        self.within_document = unfinished and last_is_kept
        return kept

    def withdraw(self) -> None:
        """The unfinished document is over and bad."""
        if self.within_document:
            self._withdraw()
        self.within_document = self._dropping = False
