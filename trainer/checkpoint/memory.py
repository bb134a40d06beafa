"""Snapshots of one rank's fragments in memory that outlives the rank: a keeper on its node, or its supervisor, owns it.

The memory is an anonymous file (memfd) that every rank's process in turn is handed; it goes with its last owner.
It holds a page of numbers and two slots, written in turn, so that a rank killed while it writes leaves the other whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.checkpoint.fragments import KINDS, Fragment
from trainer.checkpoint.memory_layout import (
    COPIES_PLACE,
    FORGETS_PLACE,
    KEY_BYTES,
    NOTE_BYTES,
    NUMBERS_BYTES,
    PAGE_BYTES,
    WRITES_PLACE,
    Numbers,
    Slot,
    memory_bytes,
    note_start,
    pack_number,
    read_numbers,
    slot_place,
    values_span,
)

_PAGES_AT_ONCE = 1 << 16


def snapshot_bytes(elements: int) -> int:
    """Memory for two slots of so many elements: fp32 masters and two moments each."""
    return memory_bytes(4 * len(KINDS) * elements)


def copies_of(fd: int) -> int:
    """On how many other nodes the keeper of this memory wants a copy of each snapshot; 0 where there is no keeper."""
    page = os.pread(fd, NUMBERS_BYTES, 0)
    return read_numbers(page).copies if len(page) == NUMBERS_BYTES else 0


class NoteTooLongError(ValueError):
    """What is to be noted beside a snapshot does not fit."""


class SnapshotMemory:
    """The memory behind `fd` as one rank uses it.

    `identity` says whose snapshots they are (run, rank, world size, stage, fragments). What another identity left is
    forgotten.
    """

    def __init__(self, fd: int, identity: Mapping[str, Any], elements: int) -> None:
        self._size = snapshot_bytes(elements)
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
        known = os.fstat(fd).st_size == self._size and os.pread(fd, KEY_BYTES, 0) == key
        copies = copies_of(fd)
        if not known:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, self._size)
        self._map = mmap.mmap(fd, self._size)
        self._touch()
        self._views: dict[int, list[torch.Tensor]] = {}
        if not known:
            self._put(COPIES_PLACE, pack_number(copies))
            self._put(0, key)

    def _touch(self) -> None:
        """Have all pages now: the first snapshots would pay for them else, tenfold.

        By torch, which lets other threads run meanwhile: with much memory this takes as long as a sign of life may.
        """
        pages = torch.frombuffer(self._map, dtype=torch.uint8)[::PAGE_BYTES]
        for first in range(0, len(pages), _PAGES_AT_ONCE):
            pages[first : first + _PAGES_AT_ONCE].add_(0)

    def steps(self) -> list[int]:
        """The steps of which a whole snapshot is there."""
        return self._numbers().steps

    @property
    def awaits_copy(self) -> bool:
        """Whether the newest snapshot is still on its way to another node, where its keeper wants a copy."""
        return self._numbers().awaits_copy

    def write(self, step: int, note: Mapping[str, Any], fragments: Sequence[Fragment]) -> None:
        """Keep the fragments' values and a JSON note; the older of the two snapshots gives way."""
        text = json.dumps(note).encode()
        if len(text) > NOTE_BYTES:
            raise NoteTooLongError(f"the note of a snapshot may have {NOTE_BYTES} bytes, this one has {len(text)}")
        numbers = self._numbers()
        slot, version = numbers.oldest, numbers.writes + 1
        self._mark(slot, Slot())
        self._put(WRITES_PLACE, pack_number(version))
        self._put(note_start(self._size, slot), text)
        for view, tensor in self._pairs(slot, fragments):
            view.copy_(tensor)
        self._mark(slot, Slot(step, len(text), version))

    def read_into(self, step: int, fragments: Sequence[Fragment]) -> dict[str, Any]:
        """Put the values of a step's snapshot into the fragments' views; its note."""
        for view, tensor in self._pairs(self._index(step), fragments):
            tensor.copy_(view)
        return self.note(step)

    def note(self, step: int) -> dict[str, Any]:
        """The note of a step's snapshot."""
        index = self._index(step)
        start = note_start(self._size, index)
        note: dict[str, Any] = json.loads(self._map[start : start + self._numbers().slots[index].note_bytes])
        return note

    def forget_after(self, step: int) -> None:
        """Drop what is newer than a step that the run went back to, copies too: it will come to those steps again."""
        numbers = self._numbers()
        for index, slot in enumerate(numbers.slots):
            if slot.version and slot.step > step:
                self._mark(index, Slot())
        self._put(FORGETS_PLACE, pack_number(numbers.forgets + 1))

    def _pairs(self, slot: int, fragments: Sequence[Fragment]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(its place in the slot, tensor), for each kind of each fragment in order."""
        tensors = [getattr(fragment, kind) for fragment in fragments for kind in KINDS]
        if slot not in self._views:  # a millisecond for the demo's 156 tensors, and always the same
            self._views[slot] = self._views_like(fragments, values_span(self._size, slot)[0])
        pairs = zip(self._views[slot], tensors, strict=True)
        return [(view, tensor) for view, tensor in pairs if tensor.numel()]

    def _views_like(self, fragments: Sequence[Fragment], offset: int) -> list[torch.Tensor]:
        """Equal places for all kinds, of which that of a moment that a fragment has not stays unused."""
        views = []
        for fragment in fragments:
            for _ in KINDS:
                views.append(torch.frombuffer(self._map, dtype=torch.float32, count=fragment.length, offset=offset))
                offset += 4 * fragment.length
        return views

    def _index(self, step: int) -> int:
        """The slot that holds a step's snapshot."""
        return next(index for index, slot in enumerate(self._numbers().slots) if slot.version and slot.step == step)

    def _numbers(self) -> Numbers:
        return read_numbers(self._map)

    def _mark(self, slot: int, numbers: Slot) -> None:
        self._put(slot_place(slot), numbers.pack())

    def _put(self, place: int, data: bytes) -> None:
        self._map[place : place + len(data)] = data
