"""Snapshots in memory of a gang of another size, as a source of what a rank of this one holds."""

from __future__ import annotations

import json
import mmap
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.checkpoint.fragments import KINDS, Fragment, Span, plan_reads
from trainer.checkpoint.memory_layout import NUMBERS_BYTES, note_start, read_numbers, values_span


@dataclass(frozen=True)
class _Piece:
    """One span of one former rank: its masters and moments lie one behind the other from `offset` on."""

    span: Span
    memory: mmap.mmap
    offset: int
    updates: float

    def view(self, kind: str) -> torch.Tensor:
        offset = self.offset + 4 * self.span.length * KINDS.index(kind)
        return torch.frombuffer(self.memory, dtype=torch.float32, count=self.span.length, offset=offset)


class FormerSnapshots:
    """The snapshots of one step of all ranks of a former gang.

    step, note: of the snapshot; what the note says of the whole run is the same on all former ranks.
    """

    def __init__(self, step: int, notes: Sequence[Mapping[str, Any]], pieces: Sequence[_Piece]) -> None:
        self.step = step
        self.note = notes[0]
        self._pieces: dict[str, list[_Piece]] = defaultdict(list)
        for piece in sorted(pieces, key=lambda piece: piece.span.start):
            self._pieces[piece.span.name].append(piece)

    def read_into(self, fragments: Sequence[Fragment]) -> list[float]:
        """Put the values into the fragments' views; the update count of each fragment.

        Raises TrainError where an element is in no former rank's snapshot.
        """
        for fragment in fragments:
            pieces = self._pieces[fragment.name]
            for copy in plan_reads(fragment.span, [piece.span for piece in pieces]):
                for kind in (kind for kind in KINDS if getattr(fragment, kind).numel()):
                    part = pieces[copy.source].view(kind).narrow(0, copy.source_start, copy.length)
                    getattr(fragment, kind).narrow(0, copy.target_start, copy.length).copy_(part)
        return [self._pieces[fragment.name][0].updates for fragment in fragments]


def open_former(fds: Sequence[int], run_key: str) -> FormerSnapshots | None:
    """The snapshots behind the descriptors, one per former rank in the order of the ranks, each whole for one step.

    None where there are none, or not all are of that run (`run_key`) and one step. The descriptors stay the caller's.
    """
    found = [_open_one(fd) for fd in fds]
    opened = [one for one in found if one is not None]
    steps = {step for step, _, _ in opened}
    notes = [note for _, note, _ in opened]
    if not fds or len(opened) < len(fds) or len(steps) > 1:
        return None
    if any(note.get("run_key") != run_key or note["world_size"] != len(fds) for note in notes):
        return None
    return FormerSnapshots(steps.pop(), notes, [piece for _, _, pieces in opened for piece in pieces])


def _open_one(fd: int) -> tuple[int, dict[str, Any], list[_Piece]] | None:
    page = os.pread(fd, NUMBERS_BYTES, 0)
    numbers, size = read_numbers(page) if len(page) == NUMBERS_BYTES else None, os.fstat(fd).st_size
    if numbers is None or numbers.newest is None:
        return None
    slot = numbers.slots[numbers.newest]
    memory = mmap.mmap(fd, size)
    start = note_start(size, numbers.newest)
    note: dict[str, Any] = json.loads(memory[start : start + slot.note_bytes])
    offset, pieces = values_span(size, numbers.newest)[0], []
    for (name, first, length), updates in zip(note["spans"], note["updates"], strict=True):
        pieces.append(_Piece(Span(name, first, length), memory, offset, updates))
        offset += 4 * len(KINDS) * length
    return slot.step, note, pieces
