import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from data_shards import parquet_source
from data_shards.batches import PART_BYTES, TextBatch
from data_shards.errors import DataError
from data_shards.parquet_pages import page_sizes
from data_shards.parquet_source import ranges, read
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile
from tests.data_shards.reading import documents_of


def source(path: Path | str, field: str = "text") -> SourceFile:
    return SourceFile(str(path), "parquet", "", field, "")


def texts_of(path: Path | str, rejects: Rejects | None = None, field: str = "text") -> list[str]:
    file = source(path, field)
    ((start, end, _),) = ranges(file, 1 << 40)
    return documents_of(read(file, start, end, rejects or Rejects("fail")))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_comes_back_exactly(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["a\r\n", "三国", "", "a\r\n", "\u2028"]
    table = pa.table({"id": range(5), "text": pa.array(texts, pa.string()).cast(kind)})
    pq.write_table(table, tmp_path / "p", row_group_size=2)
    rejects = Rejects("fail")
    assert texts_of(tmp_path / "p", rejects) == ["a\r\n", "三国", "a\r\n", "\u2028"]
    assert rejects.empty == 1


def test_parquet_nested_field_with_nulls(tmp_path: Path) -> None:
    rows = [{"b": "x"}, None, {"b": None}, {"b": "y"}]
    pq.write_table(pa.table({"a": rows}), tmp_path / "p")
    with pytest.raises(DataError, match=r"p: row group 0, row 2: field a\.b is no string: null"):
        texts_of(tmp_path / "p", field="a.b")
    rejects = Rejects("skip")
    assert texts_of(tmp_path / "p", rejects, "a.b") == ["x", "y"]
    assert rejects.skipped == {"field a.b is no string": 2}


def test_parquet_dictionary_with_nulls(tmp_path: Path) -> None:
    array = pa.array(["x", None, "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"text": array}), tmp_path / "p")
    rejects = Rejects("skip")
    assert texts_of(tmp_path / "p", rejects) == ["x", "y", "x"]
    assert [place.where for place in rejects.places] == [f"{tmp_path}/p: row group 0, row 2"]


def test_parquet_invalid_utf8_names_the_row_and_leaves_the_others(tmp_path: Path) -> None:
    rows = [b"good"] * 100 + [b"ab\n\xff"] + [b"also good"]
    pq.write_table(pa.table({"text": pa.array(rows).view(pa.string())}), tmp_path / "p", row_group_size=70)
    with pytest.raises(DataError, match=r"row group 1, row 31: invalid UTF-8: byte 1 of the line, 0xff"):
        texts_of(tmp_path / "p")
    rejects = Rejects("skip")
    assert texts_of(tmp_path / "p", rejects) == ["good"] * 100 + ["also good"]
    assert rejects.skipped == {"invalid UTF-8": 1}


def test_parquet_batches_name_the_places_of_their_documents(tmp_path: Path) -> None:
    texts = ["" if i % 3 == 0 else f"text {i}" for i in range(200)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "p", row_group_size=90)
    seen = []
    for batch in read(source(tmp_path / "p"), 0, 3, Rejects("fail")):
        assert isinstance(batch, TextBatch)
        assert batch.place is not None
        seen += [(text, batch.place(i).removeprefix(f"{tmp_path}/p: ")) for i, text in enumerate(batch.texts)]
    assert seen == [(text, f"row group {i // 90}, row {i % 90 + 1}") for i, text in enumerate(texts) if text]


def test_parquet_long_values_come_in_parts(tmp_path: Path) -> None:
    texts = ["short", "long words 三国 " * 200_000, "short too"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "p")
    batches = [batch for batch in read(source(tmp_path / "p"), 0, 1, Rejects("fail")) if isinstance(batch, TextBatch)]
    assert documents_of(batches) == texts
    assert max(len(text.encode()) for batch in batches for text in batch.texts) <= PART_BYTES


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("body", "p: no column body; there is id, text, a, ids: set the source's field"),
        ("a.c", r"p: no column a\.c; there is b: set"),
        ("text.x", r"p: no column text\.x; there is none: set"),
        ("id", "p: column id holds int64, not strings"),
        ("ids", "p: column ids holds list.*, not strings: give format: tokens if they are ids, or set"),
    ],
)
def test_parquet_wrong_field_is_refused(tmp_path: Path, field: str, message: str) -> None:
    pq.write_table(pa.table({"id": [1], "text": ["x"], "a": [{"b": "y"}], "ids": [[1]]}), tmp_path / "p")
    with pytest.raises(DataError, match=message):
        texts_of(tmp_path / "p", field=field)


def test_parquet_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "p")
    with pytest.raises(DataError, match="p: 2 columns are called text, and one is needed: write the file anew"):
        texts_of(tmp_path / "p")


def test_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="p: not a Parquet file"):
        texts_of(tmp_path / "p")


def test_parquet_ranges_hold_as_many_row_groups_as_fit(tmp_path: Path) -> None:
    texts = [f"{number} " * 500 for number in range(10)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "p", row_group_size=2, write_statistics=False)
    found = ranges(source(tmp_path / "p"), 5000)
    assert [(start, end) for start, end, _ in found] == [(0, 2), (2, 4), (4, 5)]
    assert all(size >= 2000 for _, _, size in found)


def test_parquet_file_without_rows_has_no_documents(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "p")
    assert texts_of(tmp_path / "p") == []


def test_parquet_remote_file_gives_the_same_texts(tmp_path: Path) -> None:
    texts = [f"text {number}" * 100 for number in range(500)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "p", row_group_size=100)
    fsspec.filesystem("memory").pipe_file("/parquet/p", (tmp_path / "p").read_bytes())
    assert texts_of("memory://parquet/p") == texts


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_page_sizes_add_up_to_the_column(tmp_path: Path, compression: str, version: str) -> None:
    texts = [f"row {number} " * (number % 50) for number in range(3000)]
    form = {"compression": compression, "data_page_version": version, "write_page_index": True}
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "p", data_page_size=4096, write_batch_size=64, use_dictionary=False, **form)
    column = pq.ParquetFile(tmp_path / "p").metadata.row_group(0).column(0)
    start = column.data_page_offset
    with (tmp_path / "p").open("rb") as stream:
        sizes = list(page_sizes(stream, start, column.total_compressed_size))
    headers = column.total_uncompressed_size - sum(sizes)
    assert len(sizes) > 20
    assert 10 * len(sizes) < headers < 1500 * len(sizes)
    assert max(sizes) < 64 * 500


def test_page_sizes_of_what_is_no_page_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\xff" * 100_000)
    with (tmp_path / "p").open("rb") as stream, pytest.raises(ValueError, match=r"page header|unknown kind"):
        list(page_sizes(stream, 0, 100_000))


def test_parquet_page_too_large_to_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number:04d}" * 500 for number in range(1000)]
    small = {"use_dictionary": False, "write_batch_size": 16, "data_page_size": 1 << 14}
    pq.write_table(pa.table({"id": range(1000), "text": texts}), tmp_path / "p", use_dictionary=False)
    pq.write_table(pa.table({"id": range(1000), "text": texts}), tmp_path / "q", **small)
    monkeypatch.setattr(parquet_source, "_LARGEST_PAGE_BYTES", 1 << 20)
    with pytest.raises(
        DataError, match=r"p: row group 0 has a page of \d+ bytes, more than 1048576, .*write_batch_size"
    ):
        texts_of(tmp_path / "p")
    assert texts_of(tmp_path / "q") == texts


PEAK = """
import sys
from data_shards import arrow_source, parquet_source
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile
from tests.peak_memory import peak_rss_bytes
name, path = sys.argv[1:]
reader = {"parquet": parquet_source, "arrow": arrow_source}[name]
file = SourceFile(path, name, "", "text", "")
before = peak_rss_bytes()
((start, end, _),) = reader.ranges(file, 1 << 20)
size = sum(len(text) for batch in reader.read(file, start, end, Rejects("fail")) for text in batch.texts)
print(size, peak_rss_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_one_huge_row_group_or_record_batch_needs_no_memory_by_its_size(tmp_path: Path, name: str) -> None:
    table = pa.table({"text": [os.urandom(2000).hex() for _ in range(64_000)]})
    path = tmp_path / f"a.{name}"
    if name == "parquet":
        pq.write_table(table, path, row_group_size=1 << 30, compression="none")
    else:
        with path.open("wb") as file, ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    result = subprocess.run([sys.executable, "-c", PEAK, name, str(path)], capture_output=True, text=True, check=True)
    size, grown_bytes = map(int, result.stdout.split())
    assert size == 256_000_000
    assert grown_bytes < 110_000_000
