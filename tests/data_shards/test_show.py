from pathlib import Path

import pytest

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.show import show
from data_shards.tokenizer import END_OF_TEXT
from tests.data_shards.corpora import prepare_lines, sentence, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two files of lines, each more than one shard; all lines but those of v.txt are training documents."""
    base: Path = tmp_path_factory.mktemp("show")
    write_lines(base / "corpus/a.txt", range(60))
    write_lines(base / "v.txt", range(60, 70))
    return prepare_lines(base, base / "d", val_sources=[{"path": "v.txt", "document": "line"}])


@pytest.mark.parametrize("n", [0, 1, 30, 59])
def test_show_document_is_its_text(made: Dataset, n: int) -> None:
    assert len(made.split("train")) > 1
    assert show(made, n) == sentence(n)


def test_show_document_of_validation_is_its_text(made: Dataset) -> None:
    assert show(made, 9, "val") == sentence(69)


def test_show_sequences_join_to_the_text(made: Dataset) -> None:
    first = made.split("train")[0]
    whole = "".join(sentence(number) + END_OF_TEXT for number in range(first.documents))
    length = first.tokens - 1
    assert show(made, 0, seq_len=length) == whole
    assert whole.startswith(show(made, 0, seq_len=20))
    last_of_shard = (first.tokens - 1) // 20 - 1
    assert show(made, last_of_shard, seq_len=20) in whole
    assert sentence(first.documents).startswith(show(made, last_of_shard + 1, seq_len=20)[:8])


@pytest.mark.parametrize(
    ("n", "seq_len", "message"),
    [(60, None, "train has no document number 60: it has 60"), (-1, 8, "no sequence of 8 tokens number -1")],
)
def test_show_number_outside_is_refused(made: Dataset, n: int, seq_len: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        show(made, n, seq_len=seq_len)
