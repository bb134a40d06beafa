import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data_shards.dataset_tokenizer import first_tokenizer, sample_texts
from data_shards.errors import DataError
from data_shards.settings import DataSettings, resolve_paths
from data_shards.units import Unit, cut_file, plan_units


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
    assert {units[0].rule.split_of(text) for text in texts} == {"train"}


def test_first_tokenizer_left_by_a_killed_prepare_is_kept_for_the_same_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n" * 20)
    first = first_tokenizer(settings_of(tmp_path), tmp_path, units_of(tmp_path), "corpus 1")
    stamp = (tmp_path / "tokenizer.json").stat().st_mtime_ns
    again = first_tokenizer(settings_of(tmp_path), tmp_path, (), "corpus 1")
    assert again.fingerprint == first.fingerprint
    assert (tmp_path / "tokenizer.json").stat().st_mtime_ns == stamp


def test_first_tokenizer_left_by_a_prepare_of_another_corpus_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three\n" * 20)
    first = first_tokenizer(settings_of(tmp_path), tmp_path, units_of(tmp_path), "corpus 1")
    (tmp_path / "a.txt").write_text("four five six\n" * 20)
    second = first_tokenizer(settings_of(tmp_path), tmp_path, units_of(tmp_path), "corpus 2")
    assert second.fingerprint != first.fingerprint
    assert json.loads((tmp_path / "tokenizer_settings.json").read_text())["fingerprint"] == second.fingerprint


def test_first_tokenizer_with_fewer_tokens_than_asked_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "a.txt").write_text("ab\n")
    settings = settings_of(tmp_path, tokenizer={"train": "bpe", "vocab_size": 1000})
    first_tokenizer(settings, tmp_path, units_of(tmp_path), "corpus")
    assert caplog.messages == ["the corpus gives 258 tokens; data.tokenizer.vocab_size asks for 1000"]


def test_first_tokenizer_of_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="hold no training document to make a tokenizer from"):
        first_tokenizer(settings_of(tmp_path), tmp_path, units_of(tmp_path), "corpus")
