import unicodedata
from itertools import pairwise

import pytest
import regex

from data_shards.scripts import CLASSES, SCRIPT_RANGES, class_of, count_classes

# U+30FC and U+FF70 are Common by Script, and Hiragana and Katakana by Script_Extensions.
PATTERNS = {
    **{script: rf"\p{{Script={script}}}" for script in SCRIPT_RANGES if script != "Kana"},
    "Kana": r"[\p{Script=Hiragana}\p{Script=Katakana}\u30FC\uFF70]",
}
ASSIGNED = "".join(chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs"))


@pytest.mark.parametrize("script", SCRIPT_RANGES)
def test_ranges_of_a_script_are_unicodes(script: str) -> None:
    expected = set(regex.findall(PATTERNS[script], ASSIGNED))
    within = {chr(code) for low, high in SCRIPT_RANGES[script] for code in range(low, high + 1)}
    found = within & set(ASSIGNED)
    assert found == expected
    assert len(expected) > 100


def test_ranges_rise_and_share_no_code_point() -> None:
    ranges = sorted(each for of_script in SCRIPT_RANGES.values() for each in of_script)
    assert all(low <= high for low, high in ranges)
    assert all(high < low for (_, high), (low, _) in pairwise(ranges))


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        *[("a", "Latin"), ("Ä", "Latin"), ("ﬁ", "Latin"), ("Ａ", "Latin"), ("Ⅷ", "Latin")],
        *[("三", "Han"), ("々", "Han"), ("〇", "Han"), ("𠮷", "Han"), ("豈", "Han")],
        *[("あ", "Kana"), ("ア", "Kana"), ("ー", "Kana"), ("ｱ", "Kana"), ("ｰ", "Kana")],
        *[("한", "Hangul"), ("ᄒ", "Hangul"), ("ㄱ", "Hangul")],
        *[("я", "Cyrillic"), ("Ѐ", "Cyrillic"), ("ع", "Arabic"), ("ﷺ", "Arabic"), ("क", "Devanagari")],
        *[("7", "digits"), ("٣", "digits"), ("५", "digits"), ("７", "digits")],
        *[(".", "punctuation"), ("。", "punctuation"), ("「", "punctuation"), ("+", "punctuation")],
        *[("\U0001f600", "punctuation"), ("،", "punctuation")],
        *[(" ", "whitespace"), ("\n", "whitespace"), ("\u3000", "whitespace"), ("\xa0", "whitespace")],
        *[
            ("ω", "other"),
            ("ש", "other"),
            ("\u0308", "other"),
            ("½", "other"),
            ("\x00", "other"),
            ("\ufffd", "punctuation"),
        ],
    ],
)
def test_class_of_character_is_as_expected(character: str, expected: str) -> None:
    assert class_of(character) == expected


def test_counts_are_those_of_single_characters() -> None:
    text = "Tide 三国演义, ウェーブ! 파도 волна 42\n" * 3
    counts = count_classes(text)
    assert list(counts) == list(CLASSES)
    assert counts == {kind: sum(class_of(character) == kind for character in text) for kind in CLASSES}
    assert counts["Han"] == 12
    assert counts["digits"] == 6


def test_counts_of_empty_text_are_zero() -> None:
    assert count_classes("") == dict.fromkeys(CLASSES, 0)
