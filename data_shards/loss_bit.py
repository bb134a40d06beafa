"""The highest bit of a stored id of a dataset of examples: the loss counts this token as a label. Pure functions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOSS_BIT = 1 << 31


def token_ids(stored: NDArray[Any]) -> NDArray[Any]:
    """The ids without their bits, in the type of `stored` (uint32 or int64, any shape)."""
    ids: NDArray[Any] = stored & stored.dtype.type(LOSS_BIT - 1)
    return ids


def counted_tokens(stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the loss counts each token as a label, bool of the shape of `stored`."""
    counted: NDArray[np.bool_] = stored >= LOSS_BIT
    return counted


def with_loss(ids: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The same ids, all of which count."""
    return ids | np.uint32(LOSS_BIT)
