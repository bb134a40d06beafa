"""Text of a corpus, made fit to be shown."""

from __future__ import annotations

import html

# Control characters have pictures of their own; what cannot stand in a page, or is not seen, becomes U+FFFD.
_SHOWN = {
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), 0xFFFD),
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
}


def visible(text: str) -> str:
    """The text with control characters, which could steer a terminal, as their pictures; line ends and tabs stay."""
    return text.translate(_SHOWN)


def escape(value: object) -> str:
    """A value as visible text of a page or of an attribute: nothing in it is taken for markup."""
    return html.escape(visible(str(value)), quote=True)
