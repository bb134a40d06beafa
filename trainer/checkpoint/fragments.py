"""Fragments of flattened parameters: which elements one rank holds, and how saved pieces make up what another needs.

The parameters of a model are flattened one by one. A fragment is a run of elements of one flattened parameter, so
that it means the same at every world size and every ZeRO stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from trainer.errors import TrainError

KINDS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Span:
    """Elements [start, start + length) of the flattened parameter `name`."""

    name: str
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class Copy:
    """`length` elements from `source_start` of saved piece number `source` to `target_start` of the wanted span."""

    source: int
    source_start: int
    target_start: int
    length: int


@dataclass(frozen=True)
class Fragment:
    """One rank's views of a span: fp32 master weights and AdamW's two moments, each 1-D of the same length.

    Under Muon, which has one moment, the second has length 0. Writing to the views writes to the optimizer. `step`
    counts the updates that the optimizer made to the span.
    """

    name: str
    start: int
    master: torch.Tensor  # [length] float32
    exp_avg: torch.Tensor  # [length] float32
    exp_avg_sq: torch.Tensor  # [length] float32, or [0]
    step: float

    @property
    def length(self) -> int:
        return self.master.numel()

    @property
    def span(self) -> Span:
        return Span(self.name, self.start, self.length)


@dataclass(frozen=True)
class Snapshot:
    """What one rank contributes to a checkpoint.

    `shapes` are the trainable parameters' (the same on all ranks), `fragments` what this rank owns of them, `frozen`
    and `buffers` the tensors without moments (rank 0's count), `rank_tensors` whatever is this rank's alone, such as
    states of random number generators.
    """

    shapes: Mapping[str, tuple[int, ...]]
    fragments: Sequence[Fragment]
    frozen: Mapping[str, torch.Tensor] = field(default_factory=dict)
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    rank_tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    loss_scale: Mapping[str, Any] | None = None


def plan_reads(wanted: Span, saved: Sequence[Span]) -> list[Copy]:
    """Copies that fill `wanted` from the saved spans of the same parameter, sorted by their start.

    Raises TrainError where the saved spans leave an element of `wanted` out.
    """
    copies: list[Copy] = []
    at = wanted.start
    for index, piece in enumerate(saved):
        begin, end = max(at, piece.start), min(wanted.end, piece.end)
        if begin >= end or begin > at:
            continue
        copies.append(Copy(index, begin - piece.start, begin - wanted.start, end - begin))
        at = end
    if at < wanted.end:
        raise TrainError(
            f"checkpoint: parameter {wanted.name!r} must be saved whole, but element {at} is in no saved fragment; "
            f"use another checkpoint"
        )
    return copies


def coverage_problems(shapes: Mapping[str, tuple[int, ...]], spans: Iterable[Span]) -> list[str]:
    """Sentences on each parameter of which an element belongs to no span, or to more than one; none if all is well."""
    by_name: dict[str, list[Span]] = {name: [] for name in shapes}
    problems = []
    for span in spans:
        if span.name in by_name:
            by_name[span.name].append(span)
        else:
            problems.append(f"{span.name}: saved, but the model has no such trainable parameter")
    for name, shape in shapes.items():
        problems += _problems_of_one(name, math.prod(shape), by_name[name])
    return problems


def _problems_of_one(name: str, elements: int, spans: list[Span]) -> list[str]:
    ordered = sorted((span for span in spans if span.length), key=lambda span: span.start)
    edges = [Span(name, 0, 0), *ordered, Span(name, elements, 0)]
    problems = []
    for before, after in pairwise(edges):
        if before.end < after.start:
            problems.append(f"{name}: elements {before.end} to {after.start} of {elements} are owned by no rank")
        elif before.end > after.start:
            problems.append(f"{name}: elements {after.start} to {before.end} of {elements} are owned twice")
    return problems
