from typing import Any

import numpy as np
import pytest

from cluster.data_text import plan_text, rank_groups, shown_text, stats_text
from data_shards.balance import Balance, balance
from data_shards.example_view import Piece
from data_shards.order import Order
from data_shards.show import Segment, Shown

FACTS: dict[str, Any] = {
    **{"dir": "d", "shards": 40, "tokens": 1_234_567, "seq_len": 64, "seq_len_from": "--seq-len"},
    **{"streams": 12, "shuffle_window": 8, "seed": 3, "mixing": "sources by their sizes"},
}


def found(world: int, lost: int = 0) -> Balance:
    tokens = np.random.default_rng(0).integers(1000, 30_000, 40)
    order = Order(tokens, ["a"] * 40, seq_len=64, seed=0, streams=12, window=8, weights=None, fingerprint="f")
    return balance(order, tokens, world, lost)


def test_plan_has_a_bar_for_each_rank_and_the_other_ways_beside() -> None:
    balanced = found(4, 1)
    lines = plan_text(balanced, FACTS).splitlines()
    bars = [line for line in lines if line.startswith("rank ")]
    assert [bar.split()[1] for bar in bars] == ["0", "1", "2", "3"]
    assert all(f"{tokens:,} tokens" in bar for tokens, bar in zip(balanced.load.tokens, bars, strict=True))
    assert all(f"{shards} shards" in bar for shards, bar in zip(balanced.load.shards, bars, strict=True))
    assert f"(round robin): {balanced.round_robin:.4f}; longest first: {balanced.longest_first:.4f}" in lines[-5]
    assert lines[-4].startswith("after the loss of 1 of 4 ranks")
    assert "of 64 tokens (--seq-len)" in lines[0]


def test_plan_of_a_large_world_is_bounded() -> None:
    lines = plan_text(found(5000), FACTS).splitlines()
    bars = [line for line in lines if line.startswith("ranks ")]
    assert 1 < len(bars) <= 32
    assert bars[-1].startswith(f"ranks {31 * 157}-4999")
    assert len(lines) < 50


@pytest.mark.parametrize(("ranks", "most"), [(1, 32), (32, 32), (33, 32), (5000, 32), (7, 3)])
def test_rank_groups_hold_each_rank_once(ranks: int, most: int) -> None:
    groups = rank_groups(ranks, most)
    assert len(groups) <= most
    assert [rank for low, high in groups for rank in range(low, high)] == list(range(ranks))


def shown(masked: list[int], *, starts: bool = True, ends: bool = True) -> Shown:
    segments = [Segment(0, [5, 6, 0], "tide", starts, True), Segment(3, [7, 8], "mill", True, ends)]
    return Shown("sequence", 9, "train", "a.txt", "train-00000.tar", 1200, 5, segments, masked)


def test_sequence_shows_place_borders_and_masked_labels() -> None:
    assert shown_text(shown([3], starts=False, ends=False), with_ids=True).splitlines() == [
        "sequence 9 of train (4 inputs, their labels one further): "
        "tokens 1,200 to 1,204 of train-00000.tar, source a.txt",
        "──── within a document ────",
        "tide<|endoftext|>",
        "[0] 5 6 0",
        "──── document border (token 3): its label is not trained on, attention and positions restart ────",
        "mill",
        "[3] 7 8",
        "──── goes on ────",
    ]


def test_sequence_of_a_stream_masks_nothing() -> None:
    lines = shown_text(shown([]), with_ids=False).splitlines()
    assert lines[1:] == ["tide<|endoftext|>", "──── document border (token 3) ────", "mill<|endoftext|>"]


def test_document_is_shown_as_it_is() -> None:
    document = Shown("document", 0, "train", "a", "s", 0, 3, [Segment(0, [5, 6, 0], "a \n b", True, True)], [])
    assert shown_text(document, with_ids=False) == "a \n b"
    assert shown_text(document, with_ids=True).splitlines()[0].startswith("document 0 of train: tokens 0 to 2 of s")


def row(tokens: int, **more: Any) -> dict[str, Any]:
    spread = {"min": 2, "p99": 8.0, "median": 5.0, "mean": 5.5, "max": 9}
    counts = {"tokens": tokens, "documents": 20, "shards": 3, "text_bytes_per_token": 4.25}
    return {**counts, "tokens_per_document": spread, "examples": None, **more}


def described(**more: Any) -> dict[str, Any]:
    return {
        **{"dir": "d", "vocab_size": 8192, "dtype": "uint16", "empty_documents": 1, "skipped_records": {"not JSON": 3}},
        "splits": {"train": row(1000, sources={"a": row(1000, token_share=1.0)}), "val": row(0, sources={})},
        "text": {"a": {"scripts": {"Latin": 0.75, "Han": 0.0, "whitespace": 0.25}}},
        "balance": {"ranks": None},
        "mixture": None,
        "reject_places": [{"where": f"a:{n}", "reason": "not JSON", "found": "{"} for n in range(50)],
        **more,
    }


def test_stats_have_a_line_for_each_source_and_the_first_rejects() -> None:
    lines = stats_text(described()).splitlines()
    assert lines[0] == "d  (8,192 tokens in the vocabulary, uint16)"
    counts = "1,000 tokens, 20 documents, 3 shards, 4.25 bytes of text a token"
    assert lines[1] == f"train: {counts}; tokens a document: 2 to 9, median 5, mean 6, 99 % below 8"
    assert lines[2].startswith(f"  a: {counts} (100.0% of the tokens)")
    assert "text of a: Latin 75.0%, whitespace 25.0%" in lines
    assert lines[-12:-9] == ["left out: 1 empty documents", "skipped: 3 records, not JSON", "  a:0: not JSON: {"]
    assert lines[-1] == "  a:9: not JSON: {"


def test_stats_with_a_run_file_show_shares_and_passes() -> None:
    source = {"held_share": 0.25, "asked_share": 0.5, "passes": 3.75, "max_passes": 4.0}
    repeated = {"held_share": 0.75, "asked_share": 0.5, "passes": 4.5, "max_passes": None}
    mixture = {"file": "run.yaml", "tokens": 123_456, "sources": {"zh": source, "en": repeated}}
    lines = stats_text(described(mixture=mixture)).splitlines()
    place = lines.index("a run of 123,456 tokens (run.yaml):")
    assert lines[place + 1] == "  zh: asked for 50.0% of the tokens, holds 25.0%: 3.75 passes of at most 4"
    assert lines[place + 2].endswith("holds 75.0%: 4.50 passes (more than 4: less is learned from each)")


def test_stats_of_examples_tell_filling_and_classes() -> None:
    facts = {"seq_len": 1024, "learned_share": 0.25, "filling_share": 0.013, "classes": {"ham": 1200, "spam": 3}}
    told = described()
    told["splits"]["train"]["examples"] = facts
    lines = stats_text(told).splitlines()
    assert "  examples in rows of 1,024 tokens, of which 25.0% are learned and 1.3% are filling" in lines
    assert "  classes: ham 1,200, spam 3" in lines


def test_example_shows_what_is_learned_in_brackets() -> None:
    pieces = [Piece("2 + 2 =", False), Piece(" 4<|endoftext|>", True)]
    segment = Segment(0, [5, 6, 0], "2 + 2 = 4<|endoftext|>", True, True, pieces)
    shown = Shown("document", 0, "train", "a", "s", 0, 3, [segment], [1])
    assert shown_text(shown, with_ids=False) == "2 + 2 =⟦ 4<|endoftext|>⟧"
