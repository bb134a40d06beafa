"""A fast encoder of byte-level BPE, for as long as it gives the tokens that Hugging Face's `tokenizers` gives.

fastokens keeps a cache of bounded size in each thread, so a worker's memory does not grow with its text.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_shards.rejects import shown

logger = logging.getLogger(__name__)

# A worker is one of many and has one core; the library looks at this when it encodes first.
os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")

Flat = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Ids of all texts, [tokens], and where each text begins and the last one ends in them, [texts + 1]."""

# Of the text that a worker encodes first so much is encoded twice.
SPOT_CHECK_BYTES = 1 << 16

PROBES = (
    "Hello world, it's  we'll they'VE I'm I'D 'tis ' '' 's 'S don''t\nCan't\n\n\n  stop   \t\t now.   ",
    "0 12 345 6789 1234567890 3.14 1,000,000 ½ ² Ⅷ ٣٤ 1st x2 0x1F 2024-01-31T12:00:00Z ",
    "tabs\tand\x0bforms\x0c, nulls\x00\x01\x1f\x7f, breaks\r\n\r\n\r\ra\rb\n \n \r\n ",
    "separators\u2028\u2029\x85\xa0\u3000\u200b\ufeff end ",
    "naïve nai\u0308ve Ǆ ǅ ﬁ ﬀ Straße İstanbul ΑΒΓ αβγς Привет мир שָׁלוֹם مَرْحَبًا नमस्ते สวัสดี 안녕하세요 \u1112\u1161\u11ab ",
    "三国演义，话说天下大势。分久必合！「合久必分」；カタカナ ひらがな 漢字\u3000《》、……——１２３ ",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea\u2764\ufe0f ",
    "\U0001d54f\U00020000\U0010ffff\ue000\ud7ff\ufffd\ufffe ",
    "def f(x): return {'a': [1, 2], \"b\": x != y} // <!-- --> #include <stdio.h>\n    \t",
    "\tif (a&&b) { a+=1; }\\n\\u00e9 ",
    "http://user:pw@host.example:8080/path/to?q=1&r=%20#frag a@b.c C:\\x\\y ",
    " --long-option=value snake_case camelCase XMLHttp ",
    "a" * 800,
    "=" * 300 + " " * 300 + "\n" * 300 + "7" * 300 + "-" * 299 + "." * 77 + " \n" * 99 + "\u0301" * 99,
    "<|endoftext|> a<|endoftext|>b <|im_start|>user <s></s> [INST] <unk> <|end <|endoftext|",
    "",
    " ",
    "\n",
    "a",
)


class Encoder:
    """Encodes batches of texts; `<|endoftext|>` within a text is plain text. Uses one thread.

    The first `spot_check_bytes` of text are encoded by both libraries.
    """

    def __init__(self, backend: Tokenizer, *, fast: bool = True, spot_check_bytes: int = 0) -> None:
        self._backend = backend
        self._fast = _fast_encoder(backend) if fast else None
        self._unchecked_bytes = spot_check_bytes

    @property
    def is_fast(self) -> bool:
        """Whether the fast library is used."""
        return self._fast is not None

    def encode_flat(self, texts: Sequence[str]) -> Flat:
        """Tokens of the texts, without end marks.

        Raises RuntimeError if a spot check finds other tokens than `tokenizers` gives.
        """
        if self._fast is None:
            return exact_flat(self._backend, texts)
        if self._unchecked_bytes > 0:
            self._spot_check(texts)
        return _fast_flat(self._fast, texts)

    def first_difference(self, texts: Sequence[str]) -> str | None:
        """The first text to which the fast library gives other tokens than `tokenizers`; None if there is none."""
        return None if self._fast is None else _first_difference(self._fast, self._backend, texts)

    def _spot_check(self, texts: Sequence[str]) -> None:
        parts = []
        for text in texts:
            parts.append(text[: self._unchecked_bytes])
            self._unchecked_bytes -= len(parts[-1])
            if self._unchecked_bytes <= 0:
                break
        different = self.first_difference(parts)
        if different is not None:
            raise RuntimeError(
                f"fastokens and tokenizers give other tokens for {shown(different)!r}, though they agreed on the "
                "samples that were compared first: what was prepared so far may be wrong: set "
                "HEADRACE_EXACT_ENCODER=1 and prepare into an empty folder"
            )


def exact_flat(backend: Tokenizer, texts: Sequence[str]) -> Flat:
    """As `Encoder.encode_flat`, by `tokenizers`."""
    # One at a time, since a batch is spread over threads, and each token costs a hundred bytes until it is an id.
    ids = [
        np.array(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids, dtype=np.uint32) for text in texts
    ]
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(own) for own in ids], out=offsets[1:])
    return np.concatenate(ids) if ids else np.empty(0, np.uint32), offsets


def _fast_encoder(backend: Tokenizer) -> Any | None:
    try:
        import fastokens

        fast = fastokens.Tokenizer.from_json_str(backend.to_str())
    except (ImportError, ValueError) as error:
        logger.warning("text is encoded by tokenizers, which is slow, since fastokens cannot be used: %s", error)
        return None
    added = [f"x{token.content} y{token.content}" for token in backend.get_added_tokens_decoder().values()]
    different = _first_difference(fast, backend, (*PROBES, *added))
    if different is not None:
        logger.warning(
            "text is encoded by tokenizers, which is slow, since fastokens gives other tokens for %r", shown(different)
        )
        return None
    return fast


def _fast_flat(fast: Any, texts: Sequence[str]) -> Flat:
    ids, offsets = fast.encode_batch_flat(list(texts), split_special_tokens=True)
    return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.int64)


def _first_difference(fast: Any, backend: Tokenizer, texts: Sequence[str]) -> str | None:
    ids, offsets = _fast_flat(fast, texts)
    exact_ids, exact_offsets = exact_flat(backend, texts)
    for i, text in enumerate(texts):
        if not np.array_equal(ids[offsets[i] : offsets[i + 1]], exact_ids[exact_offsets[i] : exact_offsets[i + 1]]):
            return text
    return None
