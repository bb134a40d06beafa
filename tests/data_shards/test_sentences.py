from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.sentences import sentence_ends, sentence_pairs


def sentences(text: str) -> list[str]:
    ends = [0, *sentence_ends(text), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize(
    "wanted",
    [
        ["One ends. ", "Two ends! ", "Three? ", "Four"],
        ["He came. ", "(She did not.) ", "Why?"],
        ['"Was it you?" he said. ', '"Yes!" ', "“No.” ", "Well."],
        ["What?! ", "Wait...\n", "Next… ", "“So”"],
        ["Line one.\nand on. ", "Two."],
    ],
    ids=["marks", "brackets", "quotes", "runs", "small letter"],
)
def test_sentences_of_english_end_at_marks_before_a_capital(wanted: list[str]) -> None:
    assert sentences("".join(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith met Dr. Jones and Mrs. Hall at St. James",
        "J. R. R. Tolkien and the U. S. Army and the U.S. Navy",
        "pi is 3.14 or so, e.g. Paris, i.e. France, vs. Rome",
        "see No. 5, pp. 3 and Fig. 12",
        "1. First item",
        "www.example.com/a.b and file.py",
        "at 5 p.m. on Sunday",
    ],
)
def test_sentences_of_english_do_not_end_at_other_full_stops(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    "wanted",
    [["Did he? ", "No. ", "Not I. ", "Then who?"], ["In vol. 3 of it. ", "The vol. ", "Then."], ["10. Ten. ", "Two."]],
)
def test_sentences_end_where_an_abbreviation_is_a_word(wanted: list[str]) -> None:
    assert sentences("".join(wanted)) == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        ["第一句。", "第二句！", "第三句？", "分句；", "完"],
        ["允曰：“何妨。”", "貂蝉便坐。", "「是吗？」", "（好。）", "他去了"],
        ["他说……", "“走吧……”", "好…", "完"],
        ["一。\n", "二。\u3000\u3000", "三"],
        ["你好!", "好吗? ", "Ok.好"],
    ],
    ids=["marks", "quotes", "ellipsis", "white space", "western marks"],
)
def test_sentences_of_chinese_end_at_full_width_marks_and_closing_quotes(wanted: list[str]) -> None:
    assert sentences("".join(wanted)) == wanted


def test_sentences_of_chinese_do_not_end_at_a_quote_that_the_sentence_goes_on_after() -> None:
    assert sentences("“真的吗？”，他问。好") == ["“真的吗？”，他问。", "好"]


def test_sentences_end_at_blank_lines_alone_among_line_ends() -> None:
    wanted = ["THE TITLE\n\n", "A verse\nof lines\r\n \t\r\n", "and on.\n\n\n", "end\n"]
    assert sentences("".join(wanted)) == wanted


def test_sentence_pairs_join_neighbours_and_leave_an_odd_one_alone() -> None:
    text = "\n One. Two。三！Four? Five.\n"
    assert sentence_pairs(text) == ["\n One. Two。", "三！Four? ", "Five.\n"]
    assert sentence_pairs("One. Two.") == ["One. Two."]


def test_sentence_pairs_of_texts_without_a_border_are_the_text() -> None:
    assert sentence_pairs("") == []
    assert sentence_pairs("\n\n") == ["\n\n"]
    assert sentence_pairs("no end") == ["no end"]


@settings(deadline=None)
@given(st.text(alphabet="a A1.!?…。；“”\"')\n\r\t 好，\u3000𠀀", max_size=80))
def test_sentence_pairs_of_any_text_join_to_it_with_no_empty_piece(text: str) -> None:
    pieces = sentence_pairs(text)
    assert "".join(pieces) == text
    assert all(pieces)
    assert len(pieces) == -(-len(sentences(text)) // 2) if text else pieces == []


@pytest.mark.parametrize("part", [".", '."', "\n ", "…", ". ", ".)", "。", "!a", "\n"])
def test_sentence_pairs_take_linear_time_in_runs_of_marks(part: str) -> None:
    """What would be quadratic takes hours at this size."""
    text = "x" + part * (1 << 18)
    began = time.process_time()
    assert "".join(sentence_pairs(text)) == text
    assert time.process_time() - began < 5
