from pathlib import Path

import pytest

from data_shards.dataset import Dataset
from data_shards.sample import sample_documents, sample_text
from data_shards.tokenizer import TextTokenizer, load_tokenizer
from tests.data_shards.text_dataset import document_ids, line, text_dataset

TEXTS = [line(number, words=3 + number % 90) for number in range(400)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return text_dataset(tmp_path_factory.mktemp("sample"), {"a": TEXTS}, documents_per_shard=10, block_tokens=512)


@pytest.fixture(scope="module")
def tokenizer(made: Dataset) -> TextTokenizer:
    return load_tokenizer(made.tokenizer_path)


def test_sample_of_a_small_source_is_its_text(made: Dataset, tokenizer: TextTokenizer) -> None:
    pieces = sample_text(made, made.shards, tokenizer, sample_bytes=1_000_000, seed=0)
    assert "".join(pieces) == "".join(TEXTS)


def test_sample_of_a_large_source_is_about_so_much_of_its_text(made: Dataset, tokenizer: TextTokenizer) -> None:
    whole = "".join(TEXTS)
    pieces = list(sample_text(made, made.shards, tokenizer, sample_bytes=20_000, seed=0))
    assert 10_000 < sum(len(piece.encode()) for piece in pieces) < 40_000
    assert all(piece and piece in whole for piece in pieces)


def test_sample_goes_by_its_seed(made: Dataset, tokenizer: TextTokenizer) -> None:
    first, again, other = (
        list(sample_text(made, made.shards, tokenizer, sample_bytes=9000, seed=s)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_sample_looks_into_few_shards(made: Dataset, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        Dataset, "shard_path", lambda self, shard: opened.append(shard.path) or Path(self.dir) / shard.path
    )
    for piece in sample_text(made, made.shards, tokenizer, sample_bytes=30_000, seed=3):
        assert piece
    assert 1 < len(set(opened)) <= 16 < len(made.shards)


def test_examples_are_starts_of_documents(made: Dataset, tokenizer: TextTokenizer) -> None:
    examples = sample_documents(made, made.shards, tokenizer, number=50, seed=0)
    assert len(examples) == len({(example.shard, example.document) for example in examples}) == 50
    for example in examples:
        text = TEXTS[int(example.shard[6:11]) * 10 + example.document]
        assert example.tokens == len(document_ids(made, text))
        assert (example.text == text) == example.is_whole == (example.tokens <= 121)
        assert text.startswith(example.text)
    assert {example.is_whole for example in examples} == {True, False}


def test_examples_of_a_source_of_few_documents_are_all(tmp_path: Path) -> None:
    made = text_dataset(tmp_path / "d", {"a": ["one two", "three"]})
    examples = sample_documents(made, made.shards, load_tokenizer(made.tokenizer_path), number=3, seed=0)
    assert [example.text for example in examples] == ["one two", "three"]
