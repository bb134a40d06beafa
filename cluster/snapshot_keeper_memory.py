"""The memory of one rank's snapshots, as a keeper sees it: it never maps it, for a rank may cut it at any time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection, Iterator

from xxhash import xxh3_64

from trainer.checkpoint.memory_layout import (
    ACKED_PLACE,
    COPIES_PLACE,
    NUMBERS_BYTES,
    PAGE_BYTES,
    SLOTS,
    WRITES_PLACE,
    Numbers,
    Slot,
    note_start,
    pack_number,
    read_numbers,
    slot_place,
    values_span,
)

CHUNK_BYTES = 1 << 18
"""Fits a core's cache, so that what is read or written in between costs little."""


class KeptMemory:
    """An anonymous file (memfd) laid out by trainer.checkpoint.memory_layout. It is closed when nobody refers to it.

    receiving: held by who stores into a memory that several might store into; writes_before: `writes` of its page when
    it was handed to a rank.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("headrace-snapshot")
        weakref.finalize(self, os.close, self.fd)
        self.receiving = threading.Lock()
        self.writes_before = 0
        os.ftruncate(self.fd, PAGE_BYTES)

    @property
    def size(self) -> int:
        """Bytes in all; PAGE_BYTES as long as nobody has written a snapshot."""
        return os.fstat(self.fd).st_size

    def numbers(self) -> Numbers | None:
        """The page of numbers as it is now; None while there is no page."""
        page = os.pread(self.fd, NUMBERS_BYTES, 0)
        return read_numbers(page) if len(page) == NUMBERS_BYTES else None

    def steps(self) -> list[int]:
        """The steps of which a whole snapshot is there, rising."""
        numbers = self.numbers()
        return numbers.steps if numbers is not None else []

    def find(self, step: int | None = None) -> Picked | None:
        """The whole snapshot of a step, or the newest; None where there is none."""
        numbers, size = self.numbers(), self.size
        if numbers is None or numbers.newest is None or size <= PAGE_BYTES:
            return None
        indexes = [numbers.newest] if step is None else range(SLOTS)
        for index in indexes:
            slot = numbers.slots[index]
            if slot.version and step in (None, slot.step):
                return Picked(self, index, slot, numbers.key, size)
        return None

    def begin(self, size: int, key: bytes, step: int) -> int:
        """Make room for a snapshot of `step`: index of the slot, which is not whole from now on.

        What another key or size left is dropped. ValueError if the size cannot be that of a memory.
        """
        if size <= PAGE_BYTES or (size - PAGE_BYTES) % (SLOTS * PAGE_BYTES):
            raise ValueError(f"a memory of snapshots cannot have {size} bytes")
        numbers = self.numbers()
        if numbers is None or numbers.key != key or self.size != size:
            copies = numbers.copies if numbers is not None else 0
            os.ftruncate(self.fd, 0)
            os.ftruncate(self.fd, size)
            os.pwrite(self.fd, key, 0)
            self.want_copies(copies)
            return 0
        same = [index for index in range(SLOTS) if numbers.slots[index].version and numbers.slots[index].step == step]
        index = same[0] if same else numbers.oldest
        os.pwrite(self.fd, Slot().pack(), slot_place(index))
        return index

    def finish(self, index: int, slot: Slot) -> None:
        """The slot is whole: what it holds is told by `slot`. Versions that a rank gives later are higher."""
        numbers = self.numbers()
        if numbers is not None and numbers.writes < slot.version:
            os.pwrite(self.fd, pack_number(slot.version), WRITES_PLACE)
        os.pwrite(self.fd, slot.pack(), slot_place(index))

    def keep_only(self, kept: Collection[tuple[int, int]]) -> None:
        """Drop the snapshots but those of these (step, version)."""
        numbers = self.numbers()
        for index, slot in enumerate(numbers.slots if numbers is not None else ()):
            if slot.version and (slot.step, slot.version) not in kept:
                os.pwrite(self.fd, Slot().pack(), slot_place(index))

    def want_copies(self, copies: int) -> None:
        """Tell the rank whether it is to wait for copies on other nodes."""
        os.pwrite(self.fd, pack_number(copies), COPIES_PLACE)

    def acknowledge(self, version: int) -> None:
        """Tell the rank that the other node holds the snapshot of this version."""
        os.pwrite(self.fd, pack_number(version), ACKED_PLACE)


class Picked:
    """A snapshot that was whole when it was picked. `stands` tells whether what was read of it since is its own."""

    def __init__(self, memory: KeptMemory, index: int, slot: Slot, key: bytes, size: int) -> None:
        self.memory, self.index, self.slot, self.key, self.size = memory, index, slot, key, size

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(start, bytes) of its note and its values in the memory."""
        return slot_spans(self.size, self.index, self.slot.note_bytes)

    def stands(self) -> bool:
        """Whether nobody has written to it since it was picked."""
        numbers = self.memory.numbers()
        return (
            numbers is not None
            and numbers.key == self.key
            and numbers.slots[self.index] == self.slot
            and self.memory.size == self.size
        )

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """(offset from the first byte of the note and values laid end to end, bytes)."""
        done = 0
        for start, length in self.spans:
            for at in range(0, length, CHUNK_BYTES):
                yield done + at, os.pread(self.memory.fd, min(CHUNK_BYTES, length - at), start + at)
            done += length

    def digest(self) -> int:
        """XXH3 of the note and the values."""
        state = xxh3_64()
        for _, chunk in self.chunks():
            state.update(chunk)
        return state.intdigest()

    def copy_to(self, target: KeptMemory) -> bool:
        """Copy it into another memory; whether it stood meanwhile (if not, the target's slot is not whole)."""
        index = target.begin(self.size, self.key, self.slot.step)
        places = slot_spans(self.size, index, self.slot.note_bytes)
        for (start, length), (to, _) in zip(self.spans, places, strict=True):
            for at in range(0, length, CHUNK_BYTES):
                os.pwrite(target.fd, os.pread(self.memory.fd, min(CHUNK_BYTES, length - at), start + at), to + at)
        if not self.stands():
            return False
        target.finish(index, self.slot)
        return True


def slot_spans(size: int, index: int, note_bytes: int) -> list[tuple[int, int]]:
    """(start, bytes) of a slot's note and values in a memory of `size` bytes."""
    return [(note_start(size, index), note_bytes), values_span(size, index)]
