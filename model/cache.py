"""Keys and values of the tokens so far, so that each new token costs one pass over itself alone."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import GPTConfig
from model.errors import ModelError


class KeyValueCache:
    """For `batch` rows of up to `capacity` tokens. Rows of unequal length begin with padding: `padding_b` tokens that
    nobody sees, int64 [B]. The model extends it; `keep_rows` lets go of rows that are done."""

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        capacity: int,
        padding_b: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layer, 2, batch, config.kv_heads, capacity, config.head_width)
        self._kept = torch.zeros(shape, dtype=dtype, device=device)
        self._padding_b = torch.zeros(batch, dtype=torch.int64) if padding_b is None else padding_b
        self._padding_b = self._padding_b.to(device)
        self._is_padded = bool(self._padding_b.any())
        self.capacity = capacity
        self.length = 0
        """Tokens of each row that are kept, padding among them."""

    def positions(self, tokens: int) -> Tensor:
        """Of the next `tokens` tokens of each row, int64 [B, tokens]; padding has position 0.

        Raises ModelError where they do not fit.
        """
        if self.length + tokens > self.capacity:
            raise ModelError(
                f"the cache has room for {self.capacity} tokens a row, {self.length} are there and {tokens} more do "
                "not fit: make a larger one, or shorten the text"
            )
        places = torch.arange(self.length, self.length + tokens, device=self._padding_b.device)
        return (places - self._padding_b[:, None]).clamp_min(0)

    def mask(self, tokens: int) -> Tensor | None:
        """Which kept tokens the next `tokens` see, bool [B or 1, 1, tokens, length + tokens].

        None where all are seen (one token, no padding). A padding token sees itself, so that no row is empty.
        """
        if tokens == 1 and not self._is_padded:
            return None
        places = torch.arange(self.length + tokens, device=self._padding_b.device)
        queries = places[self.length :, None]
        seen = (places <= queries) & ((places >= self._padding_b[:, None, None]) | (places == queries))
        return seen[:, None]

    def extend(self, layer: int, k_bhtd: Tensor, v_bhtd: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a layer's keys and values of the next tokens; all of them, [B, H, length + tokens, D]."""
        end = self.length + k_bhtd.shape[2]
        kept = self._kept[layer]
        kept[0, :, :, self.length : end] = k_bhtd
        kept[1, :, :, self.length : end] = v_bhtd
        return kept[0, :, :, :end], kept[1, :, :, :end]

    def advance(self, tokens: int) -> None:
        """The next tokens have gone through all layers."""
        self.length += tokens

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order, int64 [rows]."""
        self._kept = self._kept[:, :, rows]
        self._padding_b = self._padding_b[rows]
        self._is_padded = bool(self._padding_b.any())


class DecoderCache(KeyValueCache):
    """For one text that an encoder has read: of a decoder with attention to the encoder's output, whose keys and values
    are worked out once. The decoder's first token stands at position `start`, where the encoder's last one does."""

    def __init__(
        self,
        config: GPTConfig,
        start: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config, 1, capacity, None, dtype, device)
        self.start = start
        self.of_encoder: dict[int, tuple[Tensor, Tensor]] = {}
        """Keys and values [1, H, start + 1, D] by layer, once the encoder has read."""

    def positions(self, tokens: int) -> Tensor:
        """As of any cache, counted from the text's first token on."""
        return super().positions(tokens) + self.start
