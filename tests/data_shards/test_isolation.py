from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from data_shards.isolation import try_texts
from data_shards.tokenizer import save_tokenizer, train_tokenizer
from tests.data_shards.mortal_encoder import ABORTS, EXITS, HANGS, KILLS, RAISES

pytestmark = pytest.mark.slow

try_mortal = partial(try_texts, loader="tests.data_shards.mortal_encoder:MortalEncoder")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    save_tokenizer(train_tokenizer(["some text"], 300), path)
    return path


@pytest.mark.parametrize("fast", [True, False])
def test_texts_harmless_are_all_let_through_by_the_real_encoder(tokenizer: Path, fast: bool) -> None:
    assert try_texts(tokenizer, ["some text", "三国\n\x00\u2028", "word " * 200_000], fast=fast) == {}


def test_texts_that_kill_are_found_with_how_they_kill(tokenizer: Path) -> None:
    texts = ["fine", f"a {KILLS} b", "fine too", f"{ABORTS}", f"{EXITS}", "end\n"]
    assert try_mortal(tokenizer, texts) == {1: "signal 9 (Killed)", 3: "signal 6 (Aborted)", 4: "exit status 3"}
    assert try_mortal(tokenizer, ["fine"]) == {}


def test_text_that_hangs_counts_as_one_that_kills(tokenizer: Path) -> None:
    assert try_mortal(tokenizer, ["fine"]) == {}
    assert try_mortal(tokenizer, ["fine", HANGS], limit_seconds=1) == {1: "no answer within 1 s"}


def test_texts_none_start_no_process(tmp_path: Path) -> None:
    assert try_texts(tmp_path / "absent.json", []) == {}


def test_exception_of_the_encoder_is_no_death(tokenizer: Path) -> None:
    with pytest.raises(RuntimeError, match="a process to try texts in failed: ValueError: cannot encode"):
        try_mortal(tokenizer, ["fine", RAISES])
    assert try_mortal(tokenizer, ["fine"]) == {}


def test_tokenizer_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"FileNotFoundError: .*/absent\.json"):
        try_texts(tmp_path / "absent.json", ["text"])
