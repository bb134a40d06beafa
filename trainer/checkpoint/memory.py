"""Snapshots of one rank's fragments in memory that outlives the rank: its supervisor owns it.

The memory is an anonymous file (memfd) that the supervisor hands to every rank it forks; it goes with the supervisor.
It holds a page of numbers and two slots, written in turn, so that a rank killed while it writes leaves the other whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.checkpoint.fragments import KINDS, Fragment

SLOTS = 2
NOTE_BYTES = 1 << 20
_PAGE = mmap.PAGESIZE
_KEY_BYTES = 32
_NUMBERS = struct.Struct("<qq")  # step, bytes of the note; a step below 0 marks a slot that is not whole
_NONE = _NUMBERS.pack(-1, 0)


def snapshot_bytes(elements: int) -> int:
    """Memory for two slots of so many elements: fp32 masters and two moments each."""
    return _PAGE + SLOTS * (NOTE_BYTES + _rounded(4 * len(KINDS) * elements))


class SnapshotMemory:
    """The memory behind `fd` as one rank uses it.

    `identity` says whose snapshots they are (run, rank, world size, stage, fragments). What another identity left is
    forgotten.
    """

    def __init__(self, fd: int, identity: Mapping[str, Any], elements: int) -> None:
        self._slot_bytes = NOTE_BYTES + _rounded(4 * len(KINDS) * elements)
        size = snapshot_bytes(elements)
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
        known = os.fstat(fd).st_size == size and os.pread(fd, _KEY_BYTES, 0) == key
        if not known:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        if not known:
            for slot in range(SLOTS):
                self._mark(slot, _NONE)
            self._map[:_KEY_BYTES] = key

    def steps(self) -> list[int]:
        """The steps of which a whole snapshot is there."""
        return sorted(step for step, _ in map(self._numbers, range(SLOTS)) if step >= 0)

    def write(self, step: int, note: Mapping[str, Any], fragments: Sequence[Fragment]) -> None:
        """Keep the fragments' values and a JSON note; the older of the two snapshots gives way."""
        text = json.dumps(note).encode()
        if len(text) > NOTE_BYTES:
            raise ValueError(f"the note of a snapshot may have {NOTE_BYTES} bytes, this one has {len(text)}")
        slot = min(range(SLOTS), key=lambda index: self._numbers(index)[0])
        self._mark(slot, _NONE)
        start = self._start(slot)
        self._map[start : start + len(text)] = text
        for view, tensor in self._pairs(slot, fragments):
            view.copy_(tensor)
        self._mark(slot, _NUMBERS.pack(step, len(text)))

    def read_into(self, step: int, fragments: Sequence[Fragment]) -> dict[str, Any]:
        """Put the values of a step's snapshot into the fragments' views; its note."""
        slot = next(index for index in range(SLOTS) if self._numbers(index)[0] == step)
        for view, tensor in self._pairs(slot, fragments):
            tensor.copy_(view)
        start = self._start(slot)
        note: dict[str, Any] = json.loads(self._map[start : start + self._numbers(slot)[1]])
        return note

    def forget_after(self, step: int) -> None:
        """Drop what is newer than a step that the run went back to: it will come to those steps again."""
        for slot in range(SLOTS):
            if self._numbers(slot)[0] > step:
                self._mark(slot, _NONE)

    def _pairs(self, slot: int, fragments: Sequence[Fragment]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(its place in the slot, tensor), for each kind of each fragment in order."""
        offset = self._start(slot) + NOTE_BYTES
        pairs = []
        for fragment in fragments:
            for kind in KINDS:
                view = torch.frombuffer(self._map, dtype=torch.float32, count=fragment.length, offset=offset)
                pairs.append((view, getattr(fragment, kind)))
                offset += 4 * fragment.length
        return pairs

    def _start(self, slot: int) -> int:
        return _PAGE + slot * self._slot_bytes

    def _numbers(self, slot: int) -> tuple[int, int]:
        step, note_bytes = _NUMBERS.unpack_from(self._map, _KEY_BYTES + slot * _NUMBERS.size)
        return step, note_bytes

    def _mark(self, slot: int, numbers: bytes) -> None:
        place = _KEY_BYTES + slot * _NUMBERS.size
        self._map[place : place + _NUMBERS.size] = numbers


def _rounded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
