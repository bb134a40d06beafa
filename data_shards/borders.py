"""Whether a tokenizer's tokens end wherever `long_text` may cut a document."""

from __future__ import annotations

from itertools import product

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer

from data_shards.long_text import BORDER

_LEFT = (
    "a",
    "Ab",
    "I'M",
    "don't",
    "x'",
    "'s",
    "9",
    "1234",
    "x1",
    "_a",
    "(a",
    "...a",
    "  a",
    "\n\na",
    "naïve",
    "nai\u0308ve",
    "三国",
    "ひら",
    "한국",
    "мир",
    "½",
)
_SPACE = (" ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", " \n ", "，", "。", "？", "：  ")
_RIGHT = ("b", "B", "9", "'s", "(b)", "——", "三", "\u0301", "!", "")


def borders_hold(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a text cut at a border are those of the whole text.

    Looks at what the pre-tokenizer makes of many short texts, since merges never go over its borders, and at the added
    tokens, which are found before it.
    """
    pre_tokenizer = tokenizer.pre_tokenizer
    if pre_tokenizer is None or tokenizer.normalizer is not None:
        return False
    for token in tokenizer.get_added_tokens_decoder().values():
        if not token.special and (token.rstrip or BORDER.search(token.content)):
            return False
    return all(_holds(pre_tokenizer, *parts) for parts in product(_LEFT, _SPACE, _RIGHT))


def _holds(pre_tokenizer: PreTokenizer, left: str, space: str, right: str) -> bool:
    border = BORDER.search(left + space, max(0, len(left) - 1))
    if border is None:
        return True
    whole, rest = _pieces(pre_tokenizer, left + space + right), _pieces(pre_tokenizer, space + right)
    return whole == _pieces(pre_tokenizer, left) + rest


def _pieces(pre_tokenizer: PreTokenizer, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]
