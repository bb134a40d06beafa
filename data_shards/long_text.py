"""Documents too long to be held: cut into parts whose tokens together are those of the whole.

Byte-level BPE (Radford et al. 2019, section 2.2) never merges over the borders that its pre-tokenizer makes. The
patterns in use (GPT-2, cl100k, o200k, Llama 3, Qwen, DeepSeek) all end a match after a run of letters or digits that
white space or a Chinese punctuation mark follows, whatever stands around them: no alternative goes on from a letter or
digit to such a character, and the only conditions on what follows, as in `\\s+(?!\\S)`, are on white space, all of
which is left to the next part. So parts are cut there.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from data_shards.batches import PART_BYTES, Batch, Part, Place, TextBatch, Withdrawal, text_batches
from data_shards.rejects import Rejects
from data_shards.utf8 import Where, decode

BORDER = re.compile(r"[^\W_](?=[ \t\r\n。，、；：？！])")
# Nearly all text has a border in the first of these; the last is the whole part.
_SEARCHED_BYTES = (1 << 10, 1 << 15, PART_BYTES)


def document_batches(texts: list[str], place: Place, rejects: Rejects) -> Iterator[Batch]:
    """Texts, none of them empty, as batches, and the long ones in parts; `place(i)` names where the i-th stands."""
    if 4 * max(map(len, texts), default=0) > PART_BYTES:
        yield from text_batches(_parts_of(texts, place, rejects), place)
    elif texts:
        yield TextBatch(texts, place=place)


def _parts_of(texts: list[str], place: Place, rejects: Rejects) -> Iterator[Part]:
    for number, text in enumerate(texts):
        if 4 * len(text) > PART_BYTES and len(data := text.encode()) > PART_BYTES:
            where = place(number)
            yield from long_document((data,), lambda _, where=where: where, rejects)  # type: ignore[misc]
        else:
            yield text, False


def long_document(pieces: Iterable[bytes], where: Where, rejects: Rejects) -> Iterator[Part]:
    """The parts of a document whose UTF-8 comes in pieces, however they are cut; nothing of an empty one.

    `where(i)` names the document's i-th line. Invalid UTF-8 rejects the document. The pieces are read to their end.
    """
    pieces = iter(pieces)
    line = column = 0
    begun = False

    def note_cut() -> None:
        rejects.cut_within_a_word(where(line), PART_BYTES)

    for data, goes_on in cut(pieces, note_cut):
        text = decode(data, where, rejects, line, column)
        if text is None:
            for _ in pieces:
                pass
            if begun:
                yield Withdrawal()
            return
        yield text, goes_on
        begun = True
        line += data.count(b"\n")
        newline = data.rfind(b"\n")
        column = len(data) - newline - 1 if newline >= 0 else column + len(data)


def cut(pieces: Iterable[bytes], note_cut: Callable[[], None]) -> Iterator[tuple[bytes, bool]]:
    """UTF-8 cut into parts of at most PART_BYTES, each with whether more come; depends on the joined pieces alone.

    `note_cut` is called before a part that ends where there is no border of words.
    """
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) > PART_BYTES:
            at = _last_border(held[:PART_BYTES])
            if not at:
                note_cut()
                at = character_border(held, PART_BYTES)
            yield bytes(held[:at]), True
            del held[:at]
    if held:
        yield bytes(held), False


def character_border(data: bytes | bytearray, limit: int) -> int:
    """The last place up to `limit` where a character of UTF-8 begins."""
    at = limit
    while at > limit - 3 and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _last_border(window: bytes | bytearray) -> int:
    """The last border within the window, as a number of bytes; 0 if there is none."""
    end = character_border(window, len(window) - 1)  # the last character may be cut off
    for size in _SEARCHED_BYTES:
        start = max(0, end - size)
        text = window[start:end].decode(errors="surrogateescape")  # what is no UTF-8 keeps its bytes
        place = max((match.end() for match in BORDER.finditer(text)), default=0)
        if place:
            return end - len(text[place:].encode(errors="surrogateescape"))
    return 0
