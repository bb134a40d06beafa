from pathlib import Path

import numpy as np
import pytest

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loader import LoaderState, TrainLoader, train_order
from data_shards.order import Order
from data_shards.show import Shown, show, show_document, show_held_out_sequence, show_sequence
from data_shards.tokenizer import END_OF_TEXT, load_tokenizer
from tests.data_shards.text_dataset import document_ids, line, text_dataset

TEXTS = [line(number) for number in range(60)]
SEQ_LEN = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    val = {"v": [line(number) for number in range(60, 70)]}
    return text_dataset(tmp_path_factory.mktemp("show"), {"a": TEXTS[:35], "b": TEXTS[35:]}, val=val)


@pytest.fixture(scope="module")
def order(made: Dataset) -> Order:
    return train_order(made, seq_len=SEQ_LEN, seed=7, streams=6, window=2, weights=None)


def ids_of(shown: Shown) -> list[int]:
    return [token for segment in shown.segments for token in segment.ids]


@pytest.mark.parametrize("n", [0, 1, 30, 59])
def test_show_document_is_its_text(made: Dataset, n: int) -> None:
    assert len(made.split("train")) > 1
    assert show(made, n) == TEXTS[n]
    shown = show_document(made, n, "train")
    assert (shown.kind, shown.number, shown.source) == ("document", n, "a" if n < 35 else "b")
    assert ids_of(shown) == document_ids(made, TEXTS[n])
    assert shown.first_token == sum(len(document_ids(made, text)) for text in TEXTS[n // 5 * 5 : n])
    (segment,) = shown.segments
    assert (segment.has_start, segment.has_end, shown.masked_labels) == (True, True, [])


def test_show_document_of_validation_is_its_text(made: Dataset) -> None:
    assert show(made, 9, "val") == line(69)


def test_show_sequence_is_what_the_loader_gives(made: Dataset, order: Order) -> None:
    count = order.sequences_per_epoch + 9  # into the second epoch, whose offsets differ
    loader = TrainLoader(made, order, seq_len=SEQ_LEN, rank=0, world=1, micro_batch=1)
    rows = loader.read(LoaderState(), count).tokens
    for position in (0, 1, 17, count - 10, count - 1):
        assert ids_of(show_sequence(made, order, position, "stream")) == rows[position].tolist()


@pytest.mark.parametrize("packing", ["stream", "documents", "sentence_pairs"])
def test_show_sequence_is_cut_at_documents_borders(made: Dataset, order: Order, packing: str) -> None:
    borders = 0
    tokenizer = load_tokenizer(made.tokenizer_path)
    for position in range(order.sequences_per_epoch):
        shown = show_sequence(made, order, position, packing)
        ids = ids_of(shown)
        after_marks = [place + 1 for place in range(SEQ_LEN) if ids[place] == made.eot_id]
        assert [segment.place for segment in shown.segments] == [0, *after_marks]
        assert shown.masked_labels == ([] if packing == "stream" else after_marks)
        assert [segment.has_end for segment in shown.segments[:-1]] == [True] * len(after_marks)
        assert shown.segments[0].has_start == (shown.first_token == 0 or _token_before(made, shown) == made.eot_id)
        joined = "".join(segment.text + END_OF_TEXT * segment.has_end for segment in shown.segments)
        if "\ufffd" not in joined:
            assert joined == tokenizer.decode(ids)
        borders += len(after_marks)
    assert borders > 20


def _token_before(made: Dataset, shown: Shown) -> int:
    (shard,) = [shard for shard in made.shards if shard.path == shown.shard]
    texts = TEXTS[int(shard.path[6:11]) * 5 :][: shard.documents]
    return [token for text in texts for token in document_ids(made, text)][shown.first_token - 1]


def test_show_held_out_sequences_are_in_the_order_of_evaluation(made: Dataset) -> None:
    stream = [token for number in range(60, 65) for token in document_ids(made, line(number))]
    in_first = (len(stream) - 1) // 16
    for n in range(in_first):
        assert ids_of(show_held_out_sequence(made, n, 16, "stream")) == stream[n * 16 : n * 16 + 17]
    next_shard = show_held_out_sequence(made, in_first, 16, "stream")
    assert (next_shard.shard, next_shard.first_token) == ("val-00001.tar", 0)


def test_show_last_document_reaches_the_shards_end(tmp_path: Path) -> None:
    made = text_dataset(tmp_path / "d", {"a": ["one", "two"]})
    shown = show_document(made, 1, "train")
    assert shown.first_token + shown.tokens == made.tokens("train")


@pytest.mark.parametrize(("n", "found"), [(60, "60: it has 60"), (-1, "-1: it has 60")])
def test_show_document_outside_is_refused(made: Dataset, n: int, found: str) -> None:
    with pytest.raises(DataError, match=f"train has no document number {found}"):
        show_document(made, n, "train")


def test_show_sequence_outside_is_refused(made: Dataset, order: Order) -> None:
    with pytest.raises(DataError, match="must be 0 or more, found -1"):
        show_sequence(made, order, -1, "stream")
    with pytest.raises(DataError, match="val has no sequence of 16 tokens number 900"):
        show_held_out_sequence(made, 900, 16, "stream")


def test_show_of_an_empty_split_is_refused(tmp_path: Path) -> None:
    made = text_dataset(tmp_path / "d", {"a": ["one", "two"]})
    assert np.sum([shard.tokens for shard in made.split("val")]) == 0
    with pytest.raises(DataError, match="val has no document number 0: it has 0"):
        show_document(made, 0, "val")
