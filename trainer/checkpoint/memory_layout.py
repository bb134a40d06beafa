"""What lies where in the memory of a rank's snapshots. No torch: its keeper, which has none, reads it too.

A page of numbers, then two slots, each a JSON note of at most NOTE_BYTES and the values. A page of zeros holds nothing.
The rank writes all but `copies` and `acked`, which are its keeper's. A slot whose version is 0 is not whole; versions
rise with each write, so that whoever copies a slot knows by the same version before and after that nobody wrote to it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

SLOTS = 2
NOTE_BYTES = 1 << 20
PAGE_BYTES = mmap.PAGESIZE
KEY_BYTES = 32

_NUMBER = struct.Struct("<q")
_SLOT = struct.Struct("<qqq")
_PAGE = struct.Struct(f"<{KEY_BYTES}s{3 * SLOTS}q4q")

WRITES_PLACE = KEY_BYTES + SLOTS * _SLOT.size
FORGETS_PLACE = WRITES_PLACE + _NUMBER.size
COPIES_PLACE = FORGETS_PLACE + _NUMBER.size
ACKED_PLACE = COPIES_PLACE + _NUMBER.size
NUMBERS_BYTES = _PAGE.size


@dataclass(frozen=True)
class Slot:
    """One slot's numbers. version: of the write that filled it, 0 where it is not whole."""

    step: int = 0
    note_bytes: int = 0
    version: int = 0

    def pack(self) -> bytes:
        """As it lies in the page, at `slot_place`."""
        return _SLOT.pack(self.step, self.note_bytes, self.version)


@dataclass(frozen=True)
class Numbers:
    """The page of numbers.

    key: whose snapshots they are; writes: so many were begun; forgets: so often was something dropped; copies: how
    many other nodes are to hold a copy of each snapshot; acked: version of the newest that they hold.
    """

    key: bytes
    slots: tuple[Slot, ...]
    writes: int
    forgets: int
    copies: int
    acked: int

    @property
    def steps(self) -> list[int]:
        """The steps of which a whole snapshot is there, rising."""
        return sorted(slot.step for slot in self.slots if slot.version)

    @property
    def newest(self) -> int | None:
        """Index of the whole slot of the highest step; None if none is whole."""
        whole = [index for index in range(SLOTS) if self.slots[index].version]
        return max(whole, key=lambda index: self.slots[index].step, default=None)

    @property
    def oldest(self) -> int:
        """Index of the slot that the next snapshot goes to."""
        return min(range(SLOTS), key=lambda index: (self.slots[index].version > 0, self.slots[index].step))

    @property
    def awaits_copy(self) -> bool:
        """Whether the newest snapshot is to be copied to another node and has not got there yet."""
        return self.copies > 0 and self.newest is not None and self.slots[self.newest].version != self.acked


def read_numbers(page: bytes | mmap.mmap) -> Numbers:
    """The numbers at the start of the memory, of which at least NUMBERS_BYTES must be there."""
    key, *numbers = _PAGE.unpack_from(page)
    slots = tuple(Slot(*numbers[3 * index : 3 * index + 3]) for index in range(SLOTS))
    return Numbers(key, slots, *numbers[3 * SLOTS :])


def pack_number(value: int) -> bytes:
    """A number of the page, as it lies at one of the places above."""
    return _NUMBER.pack(value)


def slot_place(slot: int) -> int:
    """Where a slot's numbers lie in the page."""
    return KEY_BYTES + slot * _SLOT.size


def memory_bytes(value_bytes: int) -> int:
    """The whole memory for slots of so many bytes of values each."""
    return PAGE_BYTES + SLOTS * (NOTE_BYTES + -(-value_bytes // PAGE_BYTES) * PAGE_BYTES)


def note_start(memory_bytes: int, slot: int) -> int:
    """Where a slot's note begins, in a memory of so many bytes in all."""
    return PAGE_BYTES + slot * ((memory_bytes - PAGE_BYTES) // SLOTS)


def values_span(memory_bytes: int, slot: int) -> tuple[int, int]:
    """(start, bytes) of a slot's values, rounded up to whole pages."""
    start = note_start(memory_bytes, slot) + NOTE_BYTES
    return start, (memory_bytes - PAGE_BYTES) // SLOTS - NOTE_BYTES
