"""Examples as stored: tokens of which those that the loss counts carry the loss bit. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from data_shards.loss_bit import LOSS_BIT, counted_tokens, token_ids, with_loss

Example = NDArray[np.uint32]
"""Ids, some with the loss bit, [tokens]; at least one counts, and never the first."""


def completion_example(prompt: NDArray[np.uint32], completion: NDArray[np.uint32], eot_id: int) -> Example:
    """Prompt, completion, end mark; the last two count. An end mark stands for an empty prompt, as in generation."""
    end = np.array([eot_id], dtype=np.uint32)
    return np.concatenate([prompt if len(prompt) else end, with_loss(completion), with_loss(end)])


def class_example(text: NDArray[np.uint32], pair: NDArray[np.uint32] | None, number: int, eot_id: int) -> Example:
    """A text, or two with an end mark between them, and then the number of the class, which alone counts."""
    second = [] if pair is None else [np.array([eot_id], dtype=np.uint32), pair]
    return np.concatenate([text, *second, with_loss(np.array([number], dtype=np.uint32))])


def chat_example(ids: NDArray[np.uint32], counted: NDArray[np.bool_], eot_id: int) -> Example:
    """A conversation to its last token that counts (there is one), and an end mark if it does not end with one."""
    end = int(np.flatnonzero(counted)[-1]) + 1
    stored = np.where(counted[:end], with_loss(ids[:end]), ids[:end])
    return stored if ids[end - 1] == eot_id else np.append(stored, np.uint32(eot_id))


def fitted(example: Example, most_tokens: int) -> Example | None:
    """The example without so many tokens at its start that it is at most so long; None if its end alone is longer.

    The last run of tokens that count stays whole, with the token before it. An earlier one that is cut counts no more.
    """
    over = len(example) - most_tokens
    if over <= 0:
        return example
    if over >= last_run_start(example):
        return None
    cut = example[over:].copy()
    counted = counted_tokens(cut)
    if counted[0]:
        run = int(np.argmin(counted))
        cut[:run] = token_ids(cut[:run])
    return cut


def last_run_start(example: Example) -> int:
    """The place where the last unbroken run of tokens that count begins."""
    places = np.flatnonzero(counted_tokens(example))
    breaks = np.flatnonzero(np.diff(places) > 1)
    return int(places[breaks[-1] + 1] if len(breaks) else places[0])


def row_tokens(
    examples: list[Example], rows: list[list[int]], seq_len: int, eot_id: int
) -> tuple[Example, NDArray[np.int64]]:
    """Rows of exactly `seq_len` tokens, one after the other, and the places where examples begin.

    `rows` has the numbers of each row's examples. What is left of a row is end marks that do not count; they belong to
    its last example, behind all that it learns from. One more end mark stands at the end, for the last row's last
    label. Returns: uint32 [rows * seq_len + 1], int64 [examples].
    """
    stored = np.full(len(rows) * seq_len + 1, eot_id, dtype=np.uint32)
    starts = []
    for number, row in enumerate(rows):
        place = number * seq_len
        for index in row:
            example = examples[index]
            stored[place : place + len(example)] = example
            starts.append(place)
            place += len(example)
    return stored, np.array(starts, dtype=np.int64)


def example_ends(stored: NDArray[np.uint32], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place after the last token that counts of each example, int64 [examples].

    An example in which nothing counts ends where it starts. `starts` rise, the first is 0.
    """
    ends = starts.copy()
    places = np.flatnonzero(stored >= LOSS_BIT)
    owners = np.searchsorted(starts, places, side="right") - 1
    np.maximum.at(ends, owners, places + 1)
    return ends
