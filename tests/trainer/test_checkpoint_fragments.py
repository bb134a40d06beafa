"""The arithmetic of fragments: reads are complete and right, gaps and overlaps are seen."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.fragments import Span, coverage_problems, plan_reads
from trainer.errors import TrainError


def cut(name: str, elements: int, borders: list[int]) -> list[Span]:
    edges = [0, *sorted(border % (elements + 1) for border in borders), elements]
    return [Span(name, a, b - a) for a, b in pairwise(edges)]


@given(
    elements=st.integers(1, 60),
    saved_borders=st.lists(st.integers(0, 100), max_size=6),
    wanted_borders=st.lists(st.integers(0, 100), max_size=6),
)
def test_plan_reads_of_any_cut_gives_every_element_once_in_place(
    elements: int, saved_borders: list[int], wanted_borders: list[int]
) -> None:
    saved = cut("w", elements, saved_borders)
    values = list(range(1000, 1000 + elements))
    pieces = [values[span.start : span.end] for span in saved]
    for wanted in cut("w", elements, wanted_borders):
        out: list[int] = [-1] * wanted.length
        for copy in plan_reads(wanted, saved):
            target = slice(copy.target_start, copy.target_start + copy.length)
            assert out[target] == [-1] * copy.length
            out[target] = pieces[copy.source][copy.source_start : copy.source_start + copy.length]
        assert out == values[wanted.start : wanted.end]


@given(
    elements=st.integers(2, 60),
    borders=st.lists(st.integers(0, 100), min_size=1, max_size=6),
    which=st.integers(0, 10),
)
def test_plan_reads_with_a_piece_missing_is_refused(elements: int, borders: list[int], which: int) -> None:
    saved = [span for span in cut("w", elements, borders) if span.length]
    missing = saved.pop(which % len(saved))
    with pytest.raises(TrainError, match=rf"'w' must be saved whole, but element {missing.start} "):
        plan_reads(Span("w", 0, elements), saved)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    borders=st.lists(st.integers(0, 100), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_coverage_of_a_partition_has_no_problem(sizes: list[int], borders: list[int], order: object) -> None:
    shapes = {f"p{i}": (size,) for i, size in enumerate(sizes)}
    spans = [span for name, shape in shapes.items() for span in cut(name, math.prod(shape), borders)]
    order.shuffle(spans)  # type: ignore[attr-defined]
    assert coverage_problems(shapes, spans) == []


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        ([Span("w", 0, 4)], "w: elements 4 to 6 of 6 are owned by no rank"),
        ([Span("w", 1, 5)], "w: elements 0 to 1 of 6 are owned by no rank"),
        ([], "w: elements 0 to 6 of 6 are owned by no rank"),
        ([Span("w", 0, 2), Span("w", 3, 3)], "w: elements 2 to 3 of 6 are owned by no rank"),
        ([Span("w", 0, 4), Span("w", 3, 3)], "w: elements 3 to 4 of 6 are owned twice"),
        ([Span("w", 0, 7)], "w: elements 6 to 7 of 6 are owned twice"),
        ([Span("w", 0, 6), Span("v", 0, 1)], "v: saved, but the model has no such trainable parameter"),
    ],
)
def test_coverage_with_a_fault_names_the_elements(spans: list[Span], problem: str) -> None:
    assert coverage_problems({"w": (2, 3)}, spans) == [problem]
