"""Examples of unequal lengths put whole into rows of one length, so that little of the rows is filling. Pure."""

from collections.abc import Sequence

import numpy as np

from data_shards.permutation import keyed_hash, root_key


def best_fit_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """The numbers of the examples in each row: best-fit decreasing, as in Ding et al. 2024, Fewer Truncations Improve
    Language Modeling (section 3).

    The longest first, each goes into the row with the least space that still takes it, of such rows the one that was
    used last, or else begins one. So at most one row is half full or less. Equal lengths keep their order. Takes time
    by examples * row_tokens / 64.

    Raises: ValueError for a length that is not within 1 and `row_tokens`.
    """
    if len(lengths) and not (min(lengths) >= 1 and max(lengths) <= row_tokens):
        raise ValueError(f"lengths are {min(lengths)} to {max(lengths)}, but must be within 1 and {row_tokens}")
    rows: list[list[int]] = []
    with_space: list[list[int]] = [[] for _ in range(row_tokens)]  # rows by the space left in them
    spaces = 0  # bit s is set where a row has the space s
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = lengths[index]
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1
            row = with_space[space].pop()
            spaces ^= 0 if with_space[space] else 1 << space
        else:
            space, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        if left := space - length:
            with_space[left].append(row)
            spaces |= 1 << left
    return rows


def mixed_rows(rows: list[list[int]]) -> list[list[int]]:
    """The rows in an order that is fixed by their number alone.

    Best fit leaves the rows of the longest examples first, and an evaluation that takes the first so many tokens
    would judge by these alone.
    """
    order = np.argsort(keyed_hash(root_key("rows of examples"), np.arange(len(rows))), kind="stable")
    return [rows[number] for number in order.tolist()]
