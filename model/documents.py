"""Sequences that hold several documents, each of which is to be seen by itself.

Letters in names and comments as in `model.gpt`; N = B * T tokens, M places of tokens laid out by documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import ModelError

Int64Array = NDArray[np.int64]
Attend = Callable[[Tensor], Tensor]
"""Causal attention: queries, keys and values side by side, [B, T, 3 C], to [B, T, C]."""


@dataclass(frozen=True)
class DocumentLayout:
    """Where the documents of a batch begin and end, made ready for attention within each of them.

    Documents of about the same length form a group: a rectangle [documents, width] with what is shorter padded at its
    end. Causal attention never looks from a document into the padding after it, so a group needs no mask and takes
    the fastest kernels that there are on any device, at any dropout; what padding attends to is dropped.
    """

    positions_bt: Tensor  # int64 [B, T], counted from each document's start
    groups: tuple[tuple[int, int], ...]  # (documents, width) of each, one after the other in the M places
    token_m: Tensor  # int64 [M]: the token of the flattened batch at each place; any token at a padded one
    place_n: Tensor  # int64 [N]: the place of each token

    def attend(self, qkv_btc: Tensor, attention: Attend) -> Tensor:
        """[B, T, 3 C] to [B, T, C] by `attention` on each group, whose rows are documents."""
        qkv_mc = qkv_btc.flatten(0, 1).index_select(0, self.token_m)
        parts = torch.split(qkv_mc, [documents * width for documents, width in self.groups])
        outputs = [
            attention(part.view(*group, -1)).flatten(0, 1) for part, group in zip(parts, self.groups, strict=True)
        ]
        return torch.cat(outputs).index_select(0, self.place_n).view(*qkv_btc.shape[:2], -1)


def document_layout(lengths: Int64Array, seq_len: int, device: torch.device | str = "cpu") -> DocumentLayout:
    """The layout of a batch [B, seq_len] whose rows hold documents of these lengths, row after row.

    lengths: int64 [documents], each at least 1; a document ends where its row ends. The work is numpy's on the host:
    nothing waits for the device. Raises ModelError where lengths do not fill whole rows.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    tokens = int(ends[-1]) if len(ends) else 0
    row_ends = np.arange(seq_len, tokens + 1, seq_len)
    if len(lengths) == 0 or lengths.min() < 1 or tokens % seq_len or not np.isin(row_ends, ends).all():
        raise ModelError(
            f"the documents of a batch must fill rows of {seq_len} tokens, each by at least one; their lengths are "
            f"{lengths.tolist()}"
        )
    starts = ends - lengths
    positions_n = np.arange(tokens) - np.repeat(starts, lengths)
    groups, token_m, place_n = _grouped(lengths, starts, positions_n)
    return DocumentLayout(
        positions_bt=torch.from_numpy(positions_n.reshape(-1, seq_len)).to(device),
        groups=groups,
        token_m=torch.from_numpy(token_m).to(device),
        place_n=torch.from_numpy(place_n).to(device),
    )


def _grouped(
    lengths: Int64Array, starts: Int64Array, positions_n: Int64Array
) -> tuple[tuple[tuple[int, int], ...], Int64Array, Int64Array]:
    """`groups`, `token_m` and `place_n` of a layout."""
    steps = _steps(lengths)
    by_step = np.argsort(steps, kind="stable")
    firsts = np.flatnonzero(np.diff(steps[by_step], prepend=0))  # of each group in by_step
    widths = np.maximum.reduceat(lengths[by_step], firsts)
    members = np.diff(firsts, append=len(lengths))
    document_widths = np.repeat(widths, members)  # [documents], in the order of by_step
    document_ends = np.cumsum(document_widths)
    document_places = np.empty_like(lengths)
    document_places[by_step] = document_ends - document_widths
    places = np.arange(document_ends[-1]) - np.repeat(document_ends - document_widths, document_widths)
    token_m = np.repeat(starts[by_step], document_widths) + places
    place_n = np.repeat(document_places, lengths) + positions_n
    groups = tuple(zip(members.tolist(), widths.tolist(), strict=True))
    return groups, np.minimum(token_m, len(positions_n) - 1), place_n


def _steps(lengths: Int64Array) -> Int64Array:
    """Lengths rounded up to 5, 6, 7 or 8 times a power of two (or left, up to 8): a group pads by a quarter at most."""
    exponents = np.maximum(np.frexp(lengths - 1)[1].astype(np.int64) - 3, 0)
    result: Int64Array = (lengths + (1 << exponents) - 1) >> exponents << exponents
    return result
