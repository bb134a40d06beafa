import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import ipc

from data_shards import arrow_source
from data_shards.arrow_source import ranges, read
from data_shards.batches import TextBatch
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.settings import SourceSettings
from data_shards.sources import SourceFile, expand
from tests.data_shards.reading import documents_of

TEXTS = [f"text {number} 三国" for number in range(20)]


def source(path: Path | str, field: str = "text") -> SourceFile:
    return SourceFile(str(path), "arrow", "", field, "")


def write(path: Path, table: pa.Table, rows: int = 5, form: str = "stream", **options: Any) -> Path:
    make = ipc.new_stream if form == "stream" else ipc.new_file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, make(file, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def texts_of(path: Path | str, rejects: Rejects | None = None, field: str = "text", unit_bytes: int = 1) -> list[str]:
    file = source(path, field)
    rejects = rejects or Rejects("fail")
    return [
        text for start, end, _ in ranges(file, unit_bytes) for text in documents_of(read(file, start, end, rejects))
    ]


@pytest.mark.parametrize("form", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_arrow_text_comes_back_exactly(tmp_path: Path, form: str, compression: str | None) -> None:
    table = pa.table({"id": range(20), "text": TEXTS})
    path = write(tmp_path / "a", table, form=form, compression=compression)
    assert [(start, end) for start, end, _ in ranges(source(path), 1)] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert texts_of(path) == TEXTS
    assert texts_of(path, unit_bytes=1 << 20) == TEXTS


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_arrow_kinds_of_strings_with_nulls(tmp_path: Path, kind: pa.DataType) -> None:
    array = pa.array(["x", None, "", "y", "x"]).cast(kind)
    path = write(tmp_path / "a", pa.table({"text": array}), rows=2)
    with pytest.raises(DataError, match=r"a: record batch 0, row 2: field text is no string: null"):
        texts_of(path)
    rejects = Rejects("skip")
    assert texts_of(path, rejects) == ["x", "y", "x"]
    assert (rejects.empty, rejects.skipped) == (1, {"field text is no string": 1})


def test_arrow_nested_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pa.table({"id": range(20), "a": [{"b": text, "c": 1} for text in TEXTS]}))
    assert texts_of(path, field="a.b") == TEXTS


def test_arrow_large_batch_is_given_in_small_ones_and_pages_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_source, "_RELEASED_BYTES", 1 << 20)
    texts = [f"{number:06d} " * 30 for number in range(40_000)]
    path = write(tmp_path / "a", pa.table({"text": texts}), rows=1 << 30)
    batches = list(read(source(path), 0, 1, Rejects("fail")))
    assert documents_of(batches) == texts
    assert max(sum(map(len, batch.texts)) for batch in batches if isinstance(batch, TextBatch)) <= 1 << 20
    assert len(batches) >= 8


def test_arrow_long_value_comes_in_parts(tmp_path: Path) -> None:
    texts = ["short", "long words " * 500_000, "", "x"]
    path = write(tmp_path / "a", pa.table({"text": texts}), rows=10)
    rejects = Rejects("fail")
    assert texts_of(path, rejects) == ["short", texts[1], "x"]
    assert rejects.empty == 1


@pytest.mark.parametrize("form", ["stream", "file"])
def test_arrow_remote_file_gives_the_same_texts(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "a", pa.table({"text": TEXTS}), form=form)
    fsspec.filesystem("memory").pipe_file("/arrow/a", path.read_bytes())
    assert texts_of("memory://arrow/a") == TEXTS


def test_arrow_remote_batch_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", pa.table({"text": ["x" * 5000]}))
    fsspec.filesystem("memory").pipe_file("/arrow/large", path.read_bytes())
    monkeypatch.setattr(arrow_source, "_LARGEST_BATCH_BYTES", 4000)
    with pytest.raises(DataError, match=r"arrow/large: a record batch of \d+ bytes, more than 4000, cannot be held"):
        texts_of("memory://arrow/large")
    assert texts_of(path) == ["x" * 5000]


def test_arrow_compressed_batch_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", pa.table({"text": [f"{i * i}" for i in range(5000)]}), rows=5000, compression="zstd")
    monkeypatch.setattr(arrow_source, "_LARGEST_BATCH_BYTES", 4000)
    with pytest.raises(DataError, match=r"a: a record batch of \d+ bytes, more than 4000, cannot be held"):
        texts_of(path)


@pytest.mark.parametrize("remote", [False, True])
def test_arrow_stream_cut_between_two_batches_is_refused(tmp_path: Path, remote: bool) -> None:
    table = pa.table({"text": TEXTS})
    whole = write(tmp_path / "whole", table).read_bytes()
    head = write(tmp_path / "head", table.slice(0, 10)).read_bytes()[:-8]
    assert whole.startswith(head)
    (tmp_path / "a").write_bytes(head)
    fsspec.filesystem("memory").pipe_file("/arrow/cut", head)
    with pytest.raises(DataError, match="cut: cut off, its end mark is missing" if remote else "a: cut off"):
        texts_of("memory://arrow/cut" if remote else tmp_path / "a")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "an empty file is no Arrow file"), (b"no arrow at all", "damaged Arrow data"), (b"ARROW1\0\0", "damaged")],
)
def test_arrow_file_that_is_none_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=f"a: {message}"):
        texts_of(tmp_path / "a")


def test_arrow_wrong_field_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", pa.table({"id": [1]}))
    with pytest.raises(DataError, match="a: no column text; there is id: set the source's field"):
        texts_of(path)


def test_arrow_mapping_is_closed_with_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", pa.table({"text": TEXTS}))
    for _ in range(3):
        assert texts_of(path) == TEXTS
    maps = Path("/proc/self/maps").read_text()
    assert str(path) not in maps


def save_dataset(folder: Path, names: list[str], **state: Any) -> None:
    """As datasets.Dataset.save_to_disk does."""
    for number, name in enumerate(names):
        write(folder / name, pa.table({"text": TEXTS[number * 2 : number * 2 + 2]}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))
    (folder / "dataset_info.json").write_text("{}")


def paths(folder: Path, **fields: Any) -> list[str]:
    settings = SourceSettings.model_validate({"path": str(folder), **fields})
    return [Path(file.path).relative_to(folder).as_posix() for file in expand(settings)]


def test_expand_hugging_face_folder_gives_its_files_in_its_order(tmp_path: Path) -> None:
    save_dataset(tmp_path / "d", ["b.arrow", "a.arrow"])
    write(tmp_path / "d/cache-123.arrow", pa.table({"text": ["left over"]}))
    assert paths(tmp_path / "d") == ["b.arrow", "a.arrow"]
    (file, _) = expand(SourceSettings.model_validate({"path": str(tmp_path / "d"), "field": "body"}))
    assert (file.format, file.field) == ("arrow", "body")
    (file, _) = expand(SourceSettings.model_validate({"path": str(tmp_path / "d"), "format": "tokens"}))
    assert (file.format, file.container, file.field) == ("tokens", "arrow", "input_ids")


def test_expand_hugging_face_splits_give_train_or_the_one_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_dataset(tmp_path / "d/train", ["a.arrow"])
    save_dataset(tmp_path / "d/test", ["b.arrow"])
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with caplog.at_level("INFO"):
        assert paths(tmp_path / "d") == ["train/a.arrow"]
    assert caplog.messages == [f"{tmp_path}/d: the split train is taken of train, test"]
    assert paths(tmp_path / "d/test") == ["b.arrow"]


def test_expand_hugging_face_cache_folder_gives_its_train_files(tmp_path: Path) -> None:
    for name in ("x-train-00000-of-00002", "x-train-00001-of-00002", "x-test", "cache-9"):
        write(tmp_path / f"d/{name}.arrow", pa.table({"text": ["x"]}))
    (tmp_path / "d/dataset_info.json").write_text('{"splits": {"train": {}, "test": {}}}')
    assert paths(tmp_path / "d") == ["x-train-00000-of-00002.arrow", "x-train-00001-of-00002.arrow"]


def test_expand_remote_hugging_face_folder_gives_its_files(tmp_path: Path) -> None:
    save_dataset(tmp_path / "d", ["b.arrow", "a.arrow"])
    fsspec.filesystem("memory").put(str(tmp_path / "d"), "/hf", recursive=True)
    files = expand(SourceSettings.model_validate({"path": "memory://hf"}))
    assert [file.path.rpartition("/")[2] for file in files] == ["b.arrow", "a.arrow"]
    assert texts_of(files[0].path) == TEXTS[:2]


@pytest.mark.parametrize(
    ("state", "fields", "message"),
    [
        ('{"_data_files": [{"filename": "gone.arrow"}]}', {}, r"gone\.arrow is missing, and the dataset in"),
        ('{"_data_files": []}', {}, "is a Hugging Face dataset without data files"),
        ('{"other": 1}', {}, r"state\.json: names no data files"),
        ('{"_data', {}, r"state\.json: not JSON"),
        ('{"_data_files": [], "_indices_files": [{"filename": "i"}]}', {}, r"chosen by an index .* flatten_indices"),
        ('{"_data_files": [{"filename": "a.arrow"}]}', {"format": "jsonl"}, "its format is said to be jsonl"),
    ],
)
def test_expand_unusable_hugging_face_folder_is_refused(
    tmp_path: Path, state: str, fields: dict[str, str], message: str
) -> None:
    write(tmp_path / "d/a.arrow", pa.table({"text": ["x"]}))
    (tmp_path / "d/state.json").write_text(state)
    with pytest.raises(DataError, match=message):
        paths(tmp_path / "d", **fields)


def test_expand_hugging_face_splits_without_train_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["en", "zh"]}')
    with pytest.raises(DataError, match=rf"{tmp_path} holds the splits en, zh: give the folder of one, such as .*/en"):
        paths(tmp_path)
