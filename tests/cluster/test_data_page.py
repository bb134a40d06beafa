import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.data_facts import describe_all
from cluster.data_page import plan_page, stats_page
from data_shards.balance import balance
from data_shards.dataset import Dataset, UnitNote
from data_shards.order import Order
from data_shards.rejects import Reject
from tests.data_shards.text_dataset import text_dataset

ATTACK = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;</pre></section>\x1b[31m\x00"\'>'
ADDRESSES = ("http:", "https:", "//", "url(", "@import", "javascript:")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The description of a dataset whose texts, source names and rejects are markup."""
    folder: Path = tmp_path_factory.mktemp("page") / "<b>d"
    text_dataset(
        folder,
        {ATTACK: [ATTACK, "<script>alert(3)</script> tide " * 900], "zh": ["三国演义。"]},
        val={"v": [ATTACK]},
        notes={"u": UnitNote(empty=1, skipped={ATTACK: 3}, places=(Reject(ATTACK, ATTACK, ATTACK),))},
    )
    return describe_all(Dataset.open(folder), None, None)


def parse(page: str) -> ElementTree.Element:
    """The page's tree; ParseError unless every element is closed, every attribute quoted and all text legal."""
    assert page.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(page.partition("\n")[2])


def text_of(tree: ElementTree.Element, name: str) -> list[str]:
    return ["".join(element.itertext()) for element in tree.iter(name)]


def check_safe_and_self_contained(page: str) -> ElementTree.Element:
    tree = parse(page)
    for element in tree.iter():
        assert element.tag not in {"script", "img", "link", "iframe", "object", "b", "a"}
        for name, value in element.attrib.items():
            assert not name.startswith("on"), element.tag
            assert name not in {"src", "href"}
            if name not in {"aria-label", "content"}:
                assert not any(address in value for address in ADDRESSES)
    assert not any(address in style for style in text_of(tree, "style") for address in ADDRESSES)
    return tree


def test_page_of_a_hostile_corpus_holds_it_as_text(attacked: dict[str, Any]) -> None:
    tree = check_safe_and_self_contained(stats_page(attacked))
    shown = ATTACK.replace("\x1b", "␛").replace("\x00", "␀")
    assert shown in text_of(tree, "pre")
    cells = text_of(tree, "td")
    assert cells.count(shown) >= 1 + 3  # the source's name, and the place, reason and value of the reject
    assert text_of(tree, "title")[0].endswith("<b>d")


def test_page_forbids_whatever_is_not_in_it(attacked: dict[str, Any]) -> None:
    (policy,) = [
        meta.get("content") for meta in parse(stats_page(attacked)).iter("meta") if "http-equiv" in meta.attrib
    ]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_has_the_numbers_of_the_description(attacked: dict[str, Any]) -> None:
    tree = parse(stats_page(attacked))
    cells = text_of(tree, "td")
    train = attacked["splits"]["train"]
    assert f"{train['tokens']:,}" in cells
    assert f"{train['sources']['zh']['token_share']:.1%}" in cells
    assert "80.0%" in cells  # Han of the Chinese source
    assert attacked["fingerprint"] in cells
    assert "三国演义。" in text_of(tree, "pre")
    titles = text_of(tree, "title")
    assert f"rank 0: {attacked['balance']['ranks']['tokens'][0]:,} tokens" in titles
    assert text_of(tree, "h2") == [
        *("Split train", "Split val", "Scripts", "Examples", "Shards and their balance", "Left out")
    ]


def test_page_columns_are_as_high_as_their_counts(attacked: dict[str, Any]) -> None:
    bins = attacked["splits"]["train"]["lengths"]
    (chart, *_) = parse(stats_page(attacked)).iter("svg")
    heights = [float(rect.attrib["height"]) for rect in chart.iter("rect")]
    counts = [each["count"] for each in bins]
    assert heights == pytest.approx([count / max(counts) * max(heights) for count in counts], abs=0.01)


def test_page_with_a_runs_mixture_shows_shares_and_passes(attacked: dict[str, Any]) -> None:
    row = {"held_share": 0.25, "asked_share": 0.5, "passes": 3.75, "max_passes": 4.0}
    mixture = {"file": "run.yaml", "tokens": 123_456, "sources": {"zh": row}}
    tree = parse(stats_page({**attacked, "mixture": mixture}))
    cells = text_of(tree, "td")
    place = cells.index("25.0%")
    assert cells[place - 1 : place + 4] == ["zh", "25.0%", "50.0%", "3.75", "4"]
    assert any("123,456 tokens (run.yaml)" in paragraph for paragraph in text_of(tree, "p"))


def plan(world: int, lost: int) -> str:
    tokens = np.random.default_rng(0).integers(5000, 90_000, 300)
    order = Order(tokens, ["a"] * 300, seq_len=64, seed=0, streams=192, window=8, weights=None, fingerprint="f")
    facts = {"dir": "d<i>", "shards": 300, "tokens": int(tokens.sum()), "seq_len": 64, "seq_len_from": "--seq-len"}
    found = balance(order, tokens, world, lost)
    return plan_page(found, {**facts, "streams": 192, "shuffle_window": 8, "seed": 0, "mixing": "by size"})


def test_plan_page_has_a_column_for_each_rank() -> None:
    tree = check_safe_and_self_contained(plan(8, 2))
    tokens, shards = tree.iter("svg")
    assert [len(list(chart.iter("rect"))) for chart in (tokens, shards)] == [8, 8]
    assert "After the loss of 2 of 8 ranks" in text_of(tree, "h2")
    assert text_of(tree, "h1") == ["d<i> over 8 ranks"]


def test_plan_page_of_a_large_world_is_bounded() -> None:
    page = plan(10_000, 0)
    tokens, shards = parse(page).iter("svg")
    assert len(list(tokens.iter("rect"))) == len(list(shards.iter("rect"))) <= 128
    assert len(page) < 100_000
    assert "After the loss" not in page
