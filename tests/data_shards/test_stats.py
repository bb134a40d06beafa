import math
from pathlib import Path

import numpy as np
import pytest

from data_shards.dataset import Dataset
from data_shards.shard_view import ShardView
from data_shards.stats import describe, document_lengths, unigram_loss
from data_shards.tokenizer import load_tokenizer
from tests.data_shards.corpora import prepare_lines, sentence, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    base: Path = tmp_path_factory.mktemp("stats")
    write_lines(base / "corpus/a.txt", range(60))
    write_lines(base / "b.txt", range(60, 80))
    write_lines(base / "v.txt", range(80, 90))
    lines = [{"path": path, "document": "line"} for path in ("corpus/a.txt", "b.txt")]
    return prepare_lines(base, base / "d", sources=lines, val_sources=[{"path": "v.txt", "document": "line"}])


def lengths_of(made: Dataset, numbers: range) -> list[int]:
    tokenizer = load_tokenizer(made.tokenizer_path)
    return [len(ids) + 1 for ids in tokenizer.encode([sentence(number) for number in numbers])]


def test_document_lengths_count_the_end_mark(made: Dataset) -> None:
    assert document_lengths(made, "train").tolist() == lengths_of(made, range(80))


def test_describe_gives_the_numbers_of_each_split_and_source(made: Dataset) -> None:
    facts = describe(made)
    train = facts["splits"]["train"]
    a, b = lengths_of(made, range(60)), lengths_of(made, range(60, 80))
    text_bytes = sum(len(sentence(number).encode()) for number in range(80))
    assert (train["tokens"], train["documents"]) == (sum(a + b), 80)
    assert train["text_bytes"] == text_bytes
    assert train["text_bytes_per_token"] == text_bytes / sum(a + b)
    assert train["tokens_per_document"]["median"] == np.median(a + b)
    assert (train["tokens_per_document"]["min"], train["tokens_per_document"]["max"]) == (min(a + b), max(a + b))
    assert train["sources"]["b.txt"]["token_share"] == sum(b) / sum(a + b)
    assert train["sources"]["a.txt"]["documents"] == 60
    assert list(facts["splits"]["val"]["sources"]) == ["v.txt"]
    assert (facts["vocab_size"], facts["empty_documents"], facts["skipped_records"]) == (made.vocab_size, 0, {})


def all_tokens(made: Dataset) -> np.ndarray:
    return np.concatenate([ShardView(made, shard).tokens(0, shard.tokens) for shard in made.split("train")])


@pytest.mark.parametrize("sample", [64_000_000, 700, 1])
def test_unigram_loss_is_that_of_smoothed_counts(made: Dataset, sample: int) -> None:
    counted = all_tokens(made)[:sample].tolist()
    labels = np.array([5, 0, 0, made.vocab_size - 1, 270])
    expected = [-math.log((counted.count(label) + 1) / (len(counted) + made.vocab_size)) for label in labels.tolist()]
    assert unigram_loss(made, labels, sample) == pytest.approx(sum(expected) / 5, rel=1e-12)


def test_unigram_loss_of_no_labels_is_zero(made: Dataset) -> None:
    assert unigram_loss(made, np.empty(0, np.int64)) == 0.0


def test_shard_view_slices_over_block_borders(made: Dataset) -> None:
    shard = made.split("train")[0]
    tokens = ShardView(made, shard).tokens(0, shard.tokens)
    assert len(tokens) == shard.tokens
    assert ShardView(made, shard).tokens(250, 520).tolist() == tokens[250:520].tolist()
    assert ShardView(made, shard).tokens(256, 257).tolist() == tokens[256:257].tolist()
