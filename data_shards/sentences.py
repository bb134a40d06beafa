"""Where sentences end in English and Chinese text, and documents of two neighbouring sentences."""

from __future__ import annotations

import re
from itertools import pairwise

_ENDS = "[.!?…。！？；｡]"
_CLOSING = r"""["'”’»)\]}』」）〕】》〉]*+"""
_LOWER_CASE = "[a-zß-öø-ÿα-ωа-я]"
_HAN_OR_KANA = "[\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"

_BEFORE_NAMES = "Mr Mrs Ms Dr St Prof Rev Hon Gen Col Capt Lt Sgt Gov Sen Rep Messrs Mme Mlle Mt vs cf viz e.g i.e"
_BEFORE_NUMBERS = "No Nos no nos p pp P vol Vol Fig fig ch Ch sec Sec art Art"


def _not_after(words: str) -> str:
    return "".join(rf"(?<!\b{re.escape(word)}\.)" for word in words.split())


# What stands at the first character of a run of ends, which is all of the run that is looked at. Quantifiers are
# possessive: the time is linear in any text.
_WESTERN = (
    r"(?<=[.!?…])"
    # "J. Smith" goes on, "than I. Then" does not; "1. First" at the start of a line is one sentence.
    r"(?<!\b[A-HJ-Z]\.)(?<!^\d\.)(?<!^\d\d\.)"
    rf"{_not_after(_BEFORE_NAMES)}(?:{_not_after(_BEFORE_NUMBERS)}|(?!\s*+\d))"
    rf"(?:{_CLOSING}\s++(?!{_LOWER_CASE})|(?<!\.){_CLOSING}(?={_HAN_OR_KANA}))"
)
_FULL_WIDTH = rf"(?:(?<=[。！？；｡])|(?<=……)|(?<={_HAN_OR_KANA}…)){_CLOSING}\s*+(?![，、：；,])"
_REST_OF_BLANK_LINES = r"[^\S\n]*+\n\s*+"
# It begins with a set of characters, which the regular expression engine scans for in a tight loop.
_BORDER = re.compile(
    r"[.!?…。！？；｡\n]"
    rf"(?:(?<!\n)(?<!{_ENDS}.){_ENDS}*+(?:{_FULL_WIDTH}|{_WESTERN})|(?<=\n){_REST_OF_BLANK_LINES})",
    re.MULTILINE | re.DOTALL,
)


def sentence_ends(text: str) -> list[int]:
    """The places in a text where a sentence has ended, rising, the text's end not among them.

    A sentence ends with . ! ? and white space before anything but a small letter, with 。！？；or …… , either with the
    quotes and brackets that close after it, and at a blank line. White space belongs to the sentence before it. Full
    stops of titles (Mr.), initials, numbers (3.14, No. 5) and the like end none.
    """
    text_begins = len(text) - len(text.lstrip())
    ends = [border.end() for border in _BORDER.finditer(text, text_begins)]
    if ends and ends[-1] == len(text):
        ends.pop()
    return ends


def sentence_pairs(text: str) -> list[str]:
    """Cut a text into pairs of neighbouring sentences; the pieces, joined, are the text again.

    This is how GPT-1 is told to have been trained in the article that Headrace follows (section 2.1): a text is
    divided into sentences s1 s2 s3 ..., and each two neighbours become one context. The contexts are (s1 s2) (s3 s4)
    and so on, without overlap, so that every token is trained on once and a corpus keeps its size and its weights;
    with (s1 s2) (s2 s3) each would come twice. An odd sentence at the end stands alone. An empty text has no pieces.
    """
    if not text:
        return []
    cuts = [0, *sentence_ends(text)[1::2], len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]
