"""Text from tokens as they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.errors import ModelError

Decode = Callable[[Sequence[int]], str]
"""Tokens to text; bytes that are no UTF-8 show as U+FFFD, one for each longest beginning of a character."""

_UNFINISHED = "\ufffd"
_CONTEXT_TOKENS = 16


class TextStream:
    """The text of a row's new tokens, in pieces that add up to it.

    A piece never ends within a character, nor within what may become one of the `stops`. Once one of them is there,
    across whatever borders of tokens, `is_stopped` is True and the text ends before it. `context_ids`: the tokens
    before the first; some decoders begin a text in another way than they go on with one.
    Raises ModelError for an empty stop string.
    """

    def __init__(self, decode: Decode, context_ids: Sequence[int] = (), stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise ModelError("a stop string is empty; give at least one character, or leave it out")
        self._decode, self._stops = decode, tuple(stops)
        self._before = list(context_ids[-_CONTEXT_TOKENS:])
        self._open: list[int] = []  # tokens after `_before`, the last of which end within a character
        self._taken = 0  # characters of `_open` that were told already
        self._held = ""  # whole characters that may begin a stop string
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """What can be told now that this token is there; often nothing."""
        if self.is_stopped:
            return ""
        self._open.append(token_id)
        text = self._open_text()
        if text.endswith(_UNFINISHED):
            told = text[self._taken : -1]
            self._taken += len(told)
        else:
            told = text[self._taken :]
            self._before, self._open, self._taken = self._open, [], 0
        return self._release(told)

    def close(self) -> str:
        """The rest, when no token follows; a character that stayed unfinished shows as U+FFFD."""
        if self.is_stopped:
            return ""
        rest = self._release(self._open_text()[self._taken :] if self._open else "") + self._held
        self._open, self._taken, self._held = [], 0, ""
        return rest

    def _open_text(self) -> str:
        return self._decode(self._before + self._open)[len(self._decode(self._before)) :]

    def _release(self, told: str) -> str:
        """Of what is held and told, what is surely before any stop string."""
        text = self._held + told
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return text[: min(places)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that are the beginning of a stop string, and not all of it."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
