import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data_shards.dataset_tokenizer import EXACT_ENCODER_VARIABLE, fast_encoder_agrees, first_tokenizer, sample_texts
from data_shards.errors import DataError
from data_shards.pieces import cut_file
from data_shards.settings import DataSettings, resolve_paths
from data_shards.storage import LocalFolder
from data_shards.tokenizer import parse_tokenizer, train_tokenizer
from data_shards.units import Unit, plan_units


def settings_of(base: Path, **fields: Any) -> DataSettings:
    given = {
        "sources": [{"path": "*.txt", "document": "line"}],
        "tokenizer": {"train": "bpe", "vocab_size": 260},
        "val_fraction": 1e-9,
        "unit_bytes": 100,
        **fields,
    }
    return resolve_paths(DataSettings.model_validate(given), base)


def units_of(base: Path, **fields: Any) -> tuple[Unit, ...]:
    return plan_units(settings_of(base, **fields), cut_file)


def sampled(base: Path, sample_bytes: int, **fields: Any) -> list[str]:
    return list(sample_texts(units_of(base, **fields), "fail", sample_bytes))


def test_sample_texts_of_a_small_corpus_is_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n" * 20)
    assert sampled(tmp_path, 160) == ["one", "two"] * 20


def test_sample_texts_of_a_large_corpus_is_spread_over_its_units(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aaaa\n" * 60)  # three units
    (tmp_path / "b.txt").write_text("b三三\n" * 10)  # one unit of 80 bytes
    texts = sampled(tmp_path, 76)
    assert texts == ["aaaa"] * 5 * 3 + ["b三三"] * 2 + ["b"]
    assert sum(len(text.encode()) for text in texts) <= 76


def test_sample_texts_leaves_out_held_out_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{number}\n" for number in range(500)))
    units = units_of(tmp_path, val_fraction=0.5)
    texts = list(sample_texts(units, "fail"))
    assert 200 < len(texts) < 300
    assert {units[0].rule.split_of(text.encode()) for text in texts} == {"train"}


def test_sample_texts_keeps_a_long_document_on_its_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("text_records", "long_text"):
        monkeypatch.setattr(f"data_shards.{module}.PART_BYTES", 64)
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"{number} turns the wheel and then " * 20)
    texts = list(sample_texts(units_of(tmp_path, sources=["*.txt"], val_fraction=0.5), "fail"))
    numbers = [int(part) for text in texts for part in text.split() if part.isdigit()]
    assert {numbers.count(number) for number in set(numbers)} == {20}
    assert 5 < len(set(numbers)) < 25


def test_fast_encoder_agrees_looks_at_each_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("one two three\n" * 20)
    (tmp_path / "b.txt").write_text("four five six\n" * 20)
    units = units_of(tmp_path, sources=[{"path": f"{name}.txt", "document": "line"} for name in "ab"])
    tokenizer = parse_tokenizer(train_tokenizer(["one two"], 260), Path("t"))
    seen: list[str] = []

    def first_difference(texts: list[str]) -> str | None:
        seen.extend(texts)
        return "four five six" if "four five six" in texts else None

    assert fast_encoder_agrees(tokenizer, units, "fail")
    monkeypatch.setattr(tokenizer.encoder, "first_difference", first_difference)
    assert not fast_encoder_agrees(tokenizer, units, "fail", sample_bytes=60)
    assert seen == ["one two three"] * 2 + ["one "] + ["four five six"] * 2 + ["four"]
    assert "gives other tokens for a text of b.txt: 'four five six'" in caplog.messages[-1]


def test_fast_encoder_agrees_reads_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"input_ids": [1, 2]}\n')
    given = {"sources": [{"path": "a.jsonl", "format": "tokens"}], "tokenizer": "t.json"}
    units = units_of(tmp_path, **given)
    monkeypatch.setattr(Unit, "documents", pytest.fail)
    assert fast_encoder_agrees(parse_tokenizer(train_tokenizer(["one two"], 260), Path("t")), units, "fail")


def test_fast_encoder_agrees_not_where_it_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXACT_ENCODER_VARIABLE, "1")
    tokenizer = parse_tokenizer(train_tokenizer(["one two"], 260), Path("t"))
    assert not fast_encoder_agrees(tokenizer, (), "fail")


def test_first_tokenizer_left_by_a_killed_prepare_is_kept_for_the_same_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n" * 20)
    first = first_tokenizer(settings_of(tmp_path), LocalFolder(tmp_path), units_of(tmp_path), "corpus 1")
    stamp = (tmp_path / "tokenizer.json").stat().st_mtime_ns
    again = first_tokenizer(settings_of(tmp_path), LocalFolder(tmp_path), (), "corpus 1")
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "tokenizer.json").stat().st_mtime_ns == stamp


def test_first_tokenizer_left_by_a_prepare_of_another_corpus_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n" * 20)
    first = first_tokenizer(settings_of(tmp_path), LocalFolder(tmp_path), units_of(tmp_path), "corpus 1")
    (tmp_path / "a.txt").write_text("four five six\n" * 20)
    second = first_tokenizer(settings_of(tmp_path), LocalFolder(tmp_path), units_of(tmp_path), "corpus 2")
    assert second.fingerprint != first.fingerprint
    assert json.loads((tmp_path / "tokenizer_settings.json").read_text())["fingerprint"] == second.fingerprint


def test_first_tokenizer_with_fewer_tokens_than_asked_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "a.txt").write_text("ab\n")
    settings = settings_of(tmp_path, tokenizer={"train": "bpe", "vocab_size": 1000})
    first_tokenizer(settings, LocalFolder(tmp_path), units_of(tmp_path), "corpus")
    assert caplog.messages == ["the corpus gives 258 tokens; data.tokenizer.vocab_size asks for 1000"]


def test_first_tokenizer_of_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="hold no training document to make a tokenizer from"):
        first_tokenizer(settings_of(tmp_path), LocalFolder(tmp_path), units_of(tmp_path), "corpus")
