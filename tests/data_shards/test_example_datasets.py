"""Datasets of records: prepared, read by the loader, shown, described, audited."""

import hashlib
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.evaluation import evaluation_batches
from data_shards.examples import completion_example
from data_shards.loader import LoaderState, TrainLoader, train_order
from data_shards.loss_bit import LOSS_BIT, counted_tokens, token_ids
from data_shards.show import show_document, show_sequence
from data_shards.stats import describe, describe_text, unigram_loss
from data_shards.tokenizer import TextTokenizer, load_tokenizer
from data_shards.verify import verify
from tests.data_shards.corpora import public_files, refuse_to_run
from tests.data_shards.records import COMPLETION, prepare_records, reversal, stored_examples, write_records
from tests.model.byte_tokenizer import byte_tokenizer
from trainer.model_input import counted_labels

CLASSES = {"text": "body", "label": "kind"}
RECORDS = 400


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write_records(folder / "records/a.jsonl", map(reversal, range(10, 10 + RECORDS)))
    return folder


@pytest.fixture(scope="module")
def dataset(base: Path) -> Dataset:
    return prepare_records(base, base / "d")


def tokenizer_of(dataset: Dataset) -> TextTokenizer:
    return load_tokenizer(dataset.tokenizer_path)


def expected(dataset: Dataset, record: dict[str, str]) -> list[int]:
    prompt, completion = (ids.astype(np.uint32) for ids in tokenizer_of(dataset).encode([record["in"], record["out"]]))
    return completion_example(prompt, completion, dataset.eot_id).tolist()


def test_prepare_completions_gives_every_record_as_one_example(base: Path, dataset: Dataset) -> None:
    found = [example.tolist() for split in ("train", "val") for example in stored_examples(dataset, split)]
    wanted = [expected(dataset, reversal(number)) for number in range(10, 10 + RECORDS)]
    assert sorted(found) == sorted(wanted)
    assert len(dataset.split("train")) > 3
    assert 40 < sum(shard.documents for shard in dataset.split("val")) < 120
    facts = json.loads((base / "d/dataset.json").read_text())
    assert (facts["loss_bit"], facts["seq_len"], facts["dtype"]) == (True, 32, "uint32")
    assert Dataset.open(base / "d") == dataset


def test_prepare_completions_again_does_nothing_and_elsewhere_gives_the_same_bytes(
    base: Path, dataset: Dataset
) -> None:
    before = public_files(base / "d")
    assert prepare_records(base, base / "d", run_units=refuse_to_run) == dataset
    assert public_files(base / "d") == before
    assert prepare_records(base, base / "e").fingerprint == dataset.fingerprint
    assert public_files(base / "e") == before


def test_prepare_with_another_sequence_length_gives_another_version(base: Path, dataset: Dataset) -> None:
    prepare_records(base, base / "f")
    longer = prepare_records(base, base / "f", seq_len=48)
    assert longer.fingerprint != dataset.fingerprint
    assert longer.examples is not None and longer.examples.seq_len == 48
    with pytest.raises(DataError, match=r"model.max_seq_len: must be 48.* found 32"):
        train_order(longer, seq_len=32, seed=1, streams=4, window=2, weights=None)
    with pytest.raises(DataError, match=r"model.max_seq_len: must be 48"):
        evaluation_batches(longer, seq_len=32, rank=0, world=1, micro_batch=1, max_tokens=32)


def examples_of_rows(tokens: np.ndarray, mask: np.ndarray, starts: tuple[np.ndarray, ...]) -> list[list[int]]:
    """The examples in rows of T + 1 tokens, with their loss bits, without the label that begins another row."""
    found = []
    for row, counts, borders in zip(tokens, mask, starts, strict=True):
        stored = (row + counts * LOSS_BIT)[:-1].astype(np.uint32)
        for part in np.split(stored, borders[borders < len(stored)]):
            found.append(part[: int(np.flatnonzero(counted_tokens(part))[-1]) + 1].tolist())
    return found


@pytest.mark.parametrize("epoch", [0, 3])
def test_loader_gives_every_example_whole_and_once_in_an_epoch(dataset: Dataset, epoch: int) -> None:
    order = train_order(dataset, seq_len=32, seed=5, streams=6, window=3, weights=None)
    rows = order.sequences_per_epoch
    found: list[list[int]] = []
    for rank in range(2):
        loader = TrainLoader(dataset, order, seq_len=32, rank=rank, world=2, micro_batch=1, with_documents=True)
        batch = loader.read(LoaderState(consumed=epoch * rows), rows)
        assert batch.loss_mask is not None and batch.document_starts is not None
        assert batch.tokens.max() < dataset.vocab_size
        real = batch.real
        starts = tuple(own for own, is_real in zip(batch.document_starts, real, strict=True) if is_real)
        found += examples_of_rows(batch.tokens[real], batch.loss_mask[real], starts)
    assert sorted(found) == sorted(example.tolist() for example in stored_examples(dataset, "train"))


def test_counted_labels_are_the_completions_tokens(dataset: Dataset) -> None:
    batches = evaluation_batches(
        dataset, seq_len=32, rank=0, world=1, micro_batch=4, max_tokens=1 << 20, with_documents=True
    )
    labels = np.concatenate([batch.tokens[:, 1:][counted_labels(batch)] for batch in batches])
    wanted = [token_ids(example[counted_tokens(example)]) for example in stored_examples(dataset, "val")]
    assert Counter(labels.tolist()) == Counter(np.concatenate(wanted).tolist())


def test_unigram_loss_of_examples_is_that_of_what_is_learned(dataset: Dataset) -> None:
    def learned(split: str) -> np.ndarray:
        return np.concatenate([token_ids(one[counted_tokens(one)]) for one in stored_examples(dataset, split)])

    numbers = 1 + np.bincount(learned("train"), minlength=dataset.vocab_size)
    wanted = -np.log(numbers / numbers.sum())[learned("val")].mean()
    assert unigram_loss(dataset, learned("val").astype(np.int64)) == pytest.approx(wanted)


def test_show_marks_what_is_learned(dataset: Dataset) -> None:
    shown = show_document(dataset, 0, "train").segments[0]
    assert [piece.is_learned for piece in shown.pieces] == [False, True]
    prompt, completion = (piece.text for piece in shown.pieces)
    word = prompt.removeprefix("reverse ").removesuffix(":")
    assert completion == f" {word[::-1]}<|endoftext|>"
    order = train_order(dataset, seq_len=32, seed=5, streams=6, window=3, weights=None)
    row = show_sequence(dataset, order, 3, "examples")
    assert row.tokens == 32
    assert all(segment.text.endswith("<|endoftext|>") for segment in row.segments)


def test_stats_tell_what_is_filling_and_what_is_learned(dataset: Dataset) -> None:
    row = describe(dataset)["splits"]["train"]
    examples = [*stored_examples(dataset, "train")]
    total = dataset.tokens("train")
    assert row["examples"]["filling_share"] == pytest.approx(1 - sum(map(len, examples)) / total)
    assert row["examples"]["learned_share"] == pytest.approx(
        sum(int(counted_tokens(one).sum()) for one in examples) / total
    )
    assert row["tokens_per_document"]["max"] == max(map(len, examples))
    [text] = describe_text(dataset).values()
    assert all("⟦" in example["text"] for example in text["examples"])


def test_verify_finds_an_example_that_is_not_as_packed(base: Path, dataset: Dataset) -> None:
    assert verify(base / "d").problems == ()
    broken = prepare_records(base, base / "broken")
    path = base / "broken" / broken.shards[0].path
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[0].offset_data
    block = broken.shards[0].blocks[0]
    data = bytearray(path.read_bytes())
    stored = np.frombuffer(data, "<u4", block.tokens, block.token_offset)
    first = int(np.flatnonzero(counted_tokens(stored))[0])
    assert offset < block.token_offset
    for place in range(first, first + int(np.argmin(counted_tokens(stored)[first:]))):
        data[block.token_offset + 4 * place + 3] &= 0x7F
    path.write_bytes(data)
    found = [problem.what for problem in verify(base / "broken").problems]
    assert "nothing is learned of 1 examples" in found


def class_records(number: int = 90) -> list[dict[str, Any]]:
    kinds = ["spam", "ham", "news"]
    return [{"body": f"{kinds[i % 3]} text number {i}", "kind": kinds[i % 3]} for i in range(number)]


def test_prepare_classes_finds_them_sorted_and_counts_the_class_alone(tmp_path: Path) -> None:
    write_records(tmp_path / "records/a.jsonl", class_records())
    made = prepare_records(tmp_path, tmp_path / "d", CLASSES, seq_len=40)
    assert made.classes == ("ham", "news", "spam")
    assert Dataset.open(tmp_path / "d").classes == made.classes
    counts: Counter[str] = Counter()
    for split in ("train", "val"):
        for example in stored_examples(made, split):
            [number] = token_ids(example[counted_tokens(example)]).tolist()
            assert counted_tokens(example)[-1]
            assert tokenizer_of(made).decode(example[:-1]).startswith(made.classes[number])
            counts[made.classes[number]] += 1
    assert counts == {"ham": 30, "news": 30, "spam": 30}
    told = describe(made)["splits"]
    assert sum(told[split]["examples"]["classes"]["ham"] for split in ("train", "val")) == 30
    assert verify(tmp_path / "d").problems == ()
    assert prepare_records(tmp_path, tmp_path / "d", CLASSES, seq_len=40, run_units=refuse_to_run) == made


def test_prepare_pairs_have_an_end_mark_between_the_texts(tmp_path: Path) -> None:
    rows = [{"a": f"first {i}", "b": f"second {i}", "y": i % 2 == 0} for i in range(60)]
    write_records(tmp_path / "records/a.jsonl", rows)
    made = prepare_records(tmp_path, tmp_path / "d", {"text": "a", "pair": "b", "label": "y"}, seq_len=40)
    assert made.classes == ("false", "true")
    texts = [tokenizer_of(made).decode(example[:-1]) for example in stored_examples(made, "train")]
    assert all(
        text.split("<|endoftext|>")[0].replace("first", "second") == text.split("<|endoftext|>")[1] for text in texts
    )


def test_prepare_records_of_parquet_and_arrow_are_those_of_jsonl(tmp_path: Path, base: Path, dataset: Dataset) -> None:
    rows = [reversal(number) for number in range(10, 10 + RECORDS)]
    table = pa.Table.from_pylist([{"deep": {"in": row["in"]}, "out": row["out"], "other": 1} for row in rows])
    (tmp_path / "records").mkdir()
    pq.write_table(table, tmp_path / "records/a.parquet", row_group_size=70)
    with pa.OSFile(str(tmp_path / "records/a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    wanted = sorted(one.tolist() for split in ("train", "val") for one in stored_examples(dataset, split))
    for name in ("a.parquet", "a.arrow"):
        source = {"path": f"records/{name}", "task": {"prompt": "deep.in", "completion": "out"}}
        made = prepare_records(
            tmp_path, tmp_path / name, sources=[source], tokenizer=str(base / "d/tokenizer.json"), unit_bytes=5000
        )
        found = sorted(one.tolist() for split in ("train", "val") for one in stored_examples(made, split))
        assert found == wanted


BAD = [
    ("no field out", {"in": "a"}),
    ("a text is no string", {"in": "a", "out": 3}),
    ("what is learned is longer than a sequence", {"in": "a", "out": hashlib.sha512(b"long").hexdigest()}),
]


@pytest.mark.parametrize(("reason", "record"), BAD)
def test_prepare_bad_record_is_refused_by_its_line_or_skipped(
    tmp_path: Path, reason: str, record: dict[str, Any]
) -> None:
    rows = [reversal(number) for number in range(10, 110)]
    write_records(tmp_path / "records/a.jsonl", [*rows[:3], record, *rows[3:]])
    with pytest.raises(DataError, match=rf"a.jsonl:4: {reason}"):
        prepare_records(tmp_path, tmp_path / "d")
    made = prepare_records(tmp_path, tmp_path / "e", on_bad_record="skip")
    assert describe(made)["skipped_records"] == {reason: 1}
    assert sum(shard.documents for shard in made.shards) == 100


def test_prepare_long_prompt_is_cut_skipped_or_refused_as_asked(tmp_path: Path) -> None:
    rows = [reversal(number) for number in range(10, 110)]
    long = {"in": "begin " * 50 + "the end:", "out": " done"}
    write_records(tmp_path / "records/a.jsonl", [*rows, long])
    tokenizer = str(tmp_path / "cut/tokenizer.json")
    made = prepare_records(tmp_path, tmp_path / "cut")
    whole = [one for split in ("train", "val") for one in stored_examples(made, split) if len(one) == 32]
    assert tokenizer_of(made).decode(token_ids(whole[0])).endswith("the end: done<|endoftext|>")
    skipped = prepare_records(tmp_path, tmp_path / "skip", too_long="skip", tokenizer=tokenizer)
    assert sum(shard.documents for shard in skipped.shards) == 100
    again = prepare_records(tmp_path, tmp_path / "skip", too_long="skip", tokenizer=tokenizer, run_units=refuse_to_run)
    assert again == skipped
    with pytest.raises(DataError, match=r"a.jsonl:101: longer than a sequence: .*data.too_long: cut"):
        prepare_records(tmp_path, tmp_path / "fail", too_long="fail", tokenizer=tokenizer)


def test_prepare_unknown_class_is_a_bad_record(tmp_path: Path) -> None:
    write_records(tmp_path / "records/a.jsonl", [*class_records(), {"body": "x", "kind": "other"}])
    with pytest.raises(DataError, match=r"a.jsonl:91: no class of the dataset: other"):
        prepare_records(tmp_path, tmp_path / "d", CLASSES, seq_len=40, classes=["spam", "ham", "news"])
    given = prepare_records(
        tmp_path, tmp_path / "d", CLASSES, seq_len=40, classes=["spam", "ham", "news"], on_bad_record="skip"
    )
    assert given.classes == ("spam", "ham", "news")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=60))
def test_prepare_any_records_come_back_whole_each_in_one_row(
    base: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [
        {"in": "a b " * prompt, "out": f"{n} " + "c d " * completion} for n, (prompt, completion) in enumerate(sizes)
    ]
    write_records(folder / "records/a.jsonl", rows)
    write_records(folder / "val.jsonl", [reversal(1)])
    made = prepare_records(
        folder,
        folder / "d",
        seq_len=96,
        tokenizer=str(base / "d/tokenizer.json"),
        val_sources=[{"path": "val.jsonl", "task": COMPLETION}],
    )
    assert verify(folder / "d").problems == ()
    found = sorted(one.tolist() for one in stored_examples(made, "train"))
    assert found == sorted(expected(dataset, row)[-96:] for row in rows)


def test_prepare_more_classes_than_tokens_is_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "records/a.jsonl", [{"text": f"mill {i}", "label": f"c{i % 2}"} for i in range(40)])
    names = [f"c{number}" for number in range(301)]
    task = {"text": "text", "label": "label"}
    with pytest.raises(DataError, match=r"data\.classes: must be at most as many .* tokens, 300, .*; found 301: merge"):
        prepare_records(
            tmp_path, tmp_path / "d", task, classes=names, tokenizer=str(byte_tokenizer(tmp_path / "t.json"))
        )
    assert not (tmp_path / "d/dataset.json").exists()
