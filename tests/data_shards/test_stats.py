import math
from pathlib import Path

import numpy as np
import pytest

from data_shards.dataset import Dataset, UnitNote
from data_shards.errors import DataError
from data_shards.rejects import Reject
from data_shards.shard_view import ShardView
from data_shards.stats import describe, describe_balance, describe_text, document_lengths, unigram_loss
from tests.data_shards.text_dataset import document_ids, line, text_dataset

A = [line(number) for number in range(60)]
B = [line(number) for number in range(60, 80)]
V = [line(number) for number in range(80, 90)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return text_dataset(tmp_path_factory.mktemp("stats"), {"a": A, "b": B}, val={"v": V})


def lengths_of(made: Dataset, texts: list[str]) -> list[int]:
    return [len(document_ids(made, text)) for text in texts]


def test_document_lengths_count_the_end_mark(made: Dataset) -> None:
    assert document_lengths(made, made.split("train")[1]).tolist() == lengths_of(made, A[5:10])


def test_describe_gives_the_numbers_of_each_split_and_source(made: Dataset) -> None:
    facts = describe(made)
    train = facts["splits"]["train"]
    a, b = lengths_of(made, A), lengths_of(made, B)
    text_bytes = sum(len(text.encode()) for text in A + B)
    assert (train["tokens"], train["documents"], train["shards"]) == (sum(a + b), 80, 16)
    assert train["text_bytes"] == text_bytes
    assert train["text_bytes_per_token"] == text_bytes / sum(a + b)
    assert train["sources"]["b"]["token_share"] == sum(b) / sum(a + b)
    assert train["sources"]["b"]["text_bytes_per_token"] == sum(len(text.encode()) for text in B) / sum(b)
    assert train["sources"]["a"]["documents"] == 60
    assert list(facts["splits"]["val"]["sources"]) == ["v"]
    assert (facts["vocab_size"], facts["empty_documents"], facts["skipped_records"]) == (made.vocab_size, 0, {})
    assert facts["reject_places"] == []


def test_describe_gives_lengths_of_each_split_and_source(made: Dataset) -> None:
    train = describe(made)["splits"]["train"]
    a, b = lengths_of(made, A), lengths_of(made, B)
    for row, lengths in ((train, a + b), (train["sources"]["a"], a), (train["sources"]["b"], b)):
        spread = row["tokens_per_document"]
        assert (spread["min"], spread["max"], spread["mean"]) == (min(lengths), max(lengths), np.mean(lengths))
        assert (spread["median"], spread["p99"]) == pytest.approx((np.median(lengths), np.quantile(lengths, 0.99)))
        assert sum(each["count"] for each in row["lengths"]) == len(lengths)
    assert train["shards_read"] == train["shards"]


def test_describe_reads_lengths_of_a_sample_of_many_shards(made: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: set[str] = set()
    monkeypatch.setattr(
        Dataset, "shard_path", lambda self, shard: opened.add(shard.path) or Path(self.dir) / shard.path
    )
    train = describe(made, most_shards=4)["splits"]["train"]
    assert train["shards_read"] == 4
    assert len(opened) == 4 + 2  # validation has two
    assert train["documents"] == 80
    assert sum(each["count"] for each in train["lengths"]) == 20


def test_describe_counts_and_places_what_was_left_out(tmp_path: Path) -> None:
    rejects = tuple(Reject(f"b.jsonl:{number}", "not JSON", "{") for number in range(1, 101))
    units = {
        "u0": UnitNote(skipped={"not UTF-8": 1, "not JSON": 120}, places=rejects),
        "u1": UnitNote(empty=2, skipped={"not UTF-8": 1}, places=(Reject("a.txt:7", "not UTF-8", "\\xff"),)),
    }
    text_dataset(tmp_path / "d", {"a": A[:5]}, notes=units)
    facts = describe(Dataset.open(tmp_path / "d"))
    assert facts["empty_documents"] == 2
    assert facts["skipped_records"] == {"not JSON": 120, "not UTF-8": 2}
    assert len(facts["reject_places"]) == 100
    assert facts["reject_places"][0] == {"where": "a.txt:7", "reason": "not UTF-8", "found": "\\xff"}
    assert [place["where"] for place in facts["reject_places"][1:]] == [f"b.jsonl:{number}" for number in range(1, 100)]


def test_describe_text_gives_scripts_and_examples_of_each_source(tmp_path: Path) -> None:
    sources = {"en": ["tide mill 1", "race "], "zh": ["三国演义。"], "ru": ["волна"]}
    text = describe_text(text_dataset(tmp_path / "d", sources, val={"en": ["wheel"]}))
    assert list(text) == ["en", "zh", "ru"]
    assert text["en"]["sampled_characters"] == 21
    assert text["en"]["scripts"]["Latin"] == 17 / 21
    assert (text["en"]["scripts"]["digits"], text["en"]["scripts"]["whitespace"]) == (1 / 21, 3 / 21)
    assert (text["zh"]["scripts"]["Han"], text["zh"]["scripts"]["punctuation"]) == (0.8, 0.2)
    assert text["ru"]["scripts"]["Cyrillic"] == 1
    assert {example["text"] for example in text["en"]["examples"]} == {"tide mill 1", "race ", "wheel"}


def test_describe_text_takes_the_largest_of_many_sources(tmp_path: Path) -> None:
    sources = {f"s{number:02d}": ["tide " * (number + 1)] for number in range(52)}
    text = describe_text(text_dataset(tmp_path / "d", sources))
    assert list(text) == [f"s{number:02d}" for number in range(2, 52)]


def test_describe_balance_tells_how_even_shards_and_ranks_are(tmp_path: Path) -> None:
    made = text_dataset(tmp_path / "d", {"a": ["三国 tide " * 2000, "race mill " * 500] * 6}, documents_per_shard=3)
    described = describe_balance(made)
    tokens = [shard.tokens for shard in made.split("train")]
    assert described["shard_tokens"]["max"] == max(tokens)
    assert sum(each["count"] for each in described["histogram"]) == len(tokens) == 4
    sequences = sum((number - 1) // 1024 for number in tokens)
    assert sum(described["ranks"]["tokens"]) == sequences * 1024
    assert max(described["ranks"]["tokens"]) - min(described["ranks"]["tokens"]) <= 1024
    assert described["ranks"]["round_robin"] > described["ranks"]["max_over_mean"]


def test_describe_balance_without_a_whole_sequence_has_no_ranks(made: Dataset) -> None:
    assert max(shard.tokens for shard in made.split("train")) < 1024
    assert describe_balance(made)["ranks"] is None


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


def test_unigram_loss_fails_on_a_bad_shard_by_name_or_does_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = text_dataset(tmp_path / "d", {"a": A[:30]})
    missing, cut, damaged = (made.shard_path(shard) for shard in made.split("train")[:3])
    good = np.concatenate([ShardView(made, shard).tokens(0, shard.tokens) for shard in made.split("train")[3:]])
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:512])
    content = bytearray(damaged.read_bytes())
    content[made.split("train")[2].blocks[-1].token_offset + 1] ^= 0x80  # now a token outside the vocabulary
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=f"{missing.name} cannot be read"):
        unigram_loss(made, np.array([0]))
    expected = -math.log((good.tolist().count(0) + 1) / (len(good) + made.vocab_size))
    assert unigram_loss(made, np.array([0]), on_bad_shard="skip") == pytest.approx(expected, rel=1e-12)
    assert "shards that the unigram model does without: 3; the first: Shard" in caplog.text


def test_shard_view_slices_over_block_borders(made: Dataset) -> None:
    shard = made.split("train")[0]
    tokens = ShardView(made, shard).tokens(0, shard.tokens)
    assert tokens.tolist() == [token for text in A[:5] for token in document_ids(made, text)]
    assert ShardView(made, shard).tokens(50, 140).tolist() == tokens[50:140].tolist()
    assert ShardView(made, shard).tokens(64, 65).tolist() == tokens[64:65].tolist()
