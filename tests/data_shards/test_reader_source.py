"""Readers of the user's own: their documents, what they may not do, and what their units depend on."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.batches import TextBatch
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.prepare import prepare
from data_shards.reader_source import read
from data_shards.rejects import Rejects
from data_shards.settings import DataSettings, resolve_paths
from data_shards.sources import SourceFile

SPLIT_AT_BARS = "def read(path):\n    yield from open(path, encoding='utf-8').read().split('|')\n"


def source_file(folder: Path, reader: str, text: str = "one|two||three") -> SourceFile:
    (folder / "a.bars").write_text(text)
    (folder / "bars.py").write_text(reader)
    return SourceFile(str(folder / "a.bars"), "reader", "", "", "file", reader=f"{folder}/bars.py:read")


def texts(file: SourceFile, rejects: Rejects) -> list[str]:
    batches = list(read(file, 0, 1, rejects))
    assert all(isinstance(batch, TextBatch) for batch in batches)
    return [text for batch in batches for text in batch.texts]  # type: ignore[union-attr]


def test_reader_gives_documents_in_order_and_empty_ones_are_counted(tmp_path: Path) -> None:
    rejects = Rejects("fail")
    assert texts(source_file(tmp_path, SPLIT_AT_BARS), rejects) == ["one", "two", "three"]
    assert rejects.empty == 1


def test_reader_of_much_text_gives_all_of_it_in_batches_and_parts(tmp_path: Path) -> None:
    documents = ["a " * 300_000, "b " * 400_000, "c " * 900_000, "d"]
    file = source_file(tmp_path, SPLIT_AT_BARS, "|".join(documents))
    batches = list(read(file, 0, 1, Rejects("fail")))
    assert len(batches) > 2
    assert "".join(text for batch in batches for text in batch.texts) == "".join(documents)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("def read(path):\n    yield 'a'\n    yield 3", "must yield texts .str., found int 3 as document 1"),
        (
            "def read(path):\n    yield 'a'\n    raise KeyError('x')",
            r"failed at document 1 \(KeyError: 'x'; .*line 3\)",
        ),
        ("def read(path):\n    return 5", "failed at document 0 .TypeError: 'int' object is not iterable"),
    ],
)
def test_reader_that_fails_is_refused_by_file_reader_and_document(reader: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a\.bars: the reader .*bars\.py:read {message}"):
        texts(source_file(tmp_path, reader), Rejects("fail"))


def test_reader_bad_text_is_skipped_where_that_is_asked(tmp_path: Path) -> None:
    rejects = Rejects("skip")
    file = source_file(tmp_path, "def read(path):\n    yield 'a'\n    yield '\\ud800'\n    yield 'b'")
    assert texts(file, rejects) == ["a", "b"]
    assert [reject.where for reject in rejects.places] == [f"{file.path}: document 1"]


def made(folder: Path, corpus: str, reader: str) -> Dataset:
    (folder / f"{corpus}.py").write_text(reader)
    settings = DataSettings.model_validate(
        {
            "sources": [{"path": f"{corpus}/*.bars", "format": f"{corpus}:read", "name": "bars"}],
            "tokenizer": {"train": "bpe", "vocab_size": 280},
            "val_fraction": 0.3,
        }
    )
    return prepare(resolve_paths(settings, folder), dir=folder / f"{corpus}-data", min_val_tokens=4)


def test_dataset_of_a_reader_depends_on_files_and_reader_and_not_on_where_they_lie(tmp_path: Path) -> None:
    for corpus in ("here", "there"):
        (tmp_path / corpus).mkdir()
        for number in range(3):
            words = "|".join(f"the mill {number} grinds {i}" for i in range(20))
            (tmp_path / corpus / f"{number}.bars").write_text(words)
    here, there = (made(tmp_path, corpus, SPLIT_AT_BARS) for corpus in ("here", "there"))
    assert sum(shard.documents for shard in here.shards) == 60
    assert here.fingerprint == there.fingerprint
    assert made(tmp_path, "here", SPLIT_AT_BARS).fingerprint == here.fingerprint
    other = made(tmp_path, "here", SPLIT_AT_BARS.replace("'|'", "' '"))
    assert other.corpus_fingerprint != here.corpus_fingerprint
    assert sum(shard.documents for shard in other.shards) > 60


def test_settings_refuse_what_a_reader_would_not_use() -> None:
    def sources(**more: str) -> None:
        source = {"path": "a", "format": "m:f", **more}
        DataSettings.model_validate({"sources": [source], "tokenizer": "t"})

    sources()
    with pytest.raises(ValueError, match="document: line is for text files"):
        sources(document="line")
    with pytest.raises(ValueError, match="field: x is for jsonl"):
        sources(field="x")
    with pytest.raises(ValueError, match=r"must be auto, text, .*, or MODULE:FUNCTION of a reader"):
        sources(format="jsnl")
