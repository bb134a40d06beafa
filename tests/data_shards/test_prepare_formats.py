import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pyarrow import ipc

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.show import show
from data_shards.tokenizer import load_tokenizer, train_tokenizer
from data_shards.verify import verify
from tests.data_shards.corpora import prepare_lines, public_files, refuse_to_run, sentence, times_of_change
from tests.data_shards.test_megatron_source import write_pair

TEXTS = [sentence(number) for number in range(120)]
LINES = "".join(f"{text}\n" for text in TEXTS).encode()
JSON_LINES = "".join(json.dumps({"a": {"b": text}}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def bytes_to(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda base: (base / name).write_bytes(data) and None


def files(base: Path) -> None:
    for number, text in enumerate(TEXTS):
        (base / f"{number:03d}.txt").write_bytes(text.encode())


def parquet(base: Path) -> None:
    rows = [{"b": text} for text in TEXTS]
    pq.write_table(pa.table({"a": rows}), base / "c.parquet", row_group_size=16)


def arrow(base: Path) -> None:
    table = pa.table({"text": TEXTS})
    for number in range(2):
        with (base / f"data-{number}.arrow").open("wb") as file, ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.slice(number * 60, 60), max_chunksize=16)


def hugging_face(base: Path) -> None:
    (base / "set").mkdir()
    arrow(base / "set")
    files = [{"filename": f"data-{number}.arrow"} for number in range(2)]
    (base / "set/state.json").write_text(json.dumps({"_data_files": files}))
    (base / "set/dataset_info.json").write_text("{}")


def webdataset(base: Path) -> None:
    with tarfile.open(base / "c.tar", "w") as tar:
        for number, text in enumerate(TEXTS):
            suffix, data = ("txt", text) if number % 2 else ("json", json.dumps({"text": text}))
            info = tarfile.TarInfo(f"{number:03d}.{suffix}")
            info.size = len(data.encode())
            tar.addfile(info, io.BytesIO(data.encode()))


FORMATS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "files": (files, {"path": "*.txt"}),
    "lines": (bytes_to("c.txt", LINES), {"path": "c.txt", "document": "line"}),
    "crlf": (bytes_to("c.txt", LINES.replace(b"\n", b"\r\n")), {"path": "c.txt", "document": "line"}),
    "blank lines": (bytes_to("c.txt", LINES.replace(b"\n", b"\n\n")), {"path": "c.txt", "document": "blank_line"}),
    "lines in gz": (bytes_to("c.txt.gz", gzip.compress(LINES, mtime=0)), {"path": "c.txt.gz", "document": "line"}),
    "lines in zst": (bytes_to("c.zst", zstandard.compress(LINES)), {"path": "c.zst", "document": "line"}),
    "jsonl": (bytes_to("c.jsonl", JSON_LINES), {"path": "c.jsonl", "field": "a.b"}),
    "jsonl in gz": (bytes_to("c.jsonl.gz", gzip.compress(JSON_LINES, mtime=0)), {"path": "c.jsonl.gz", "field": "a.b"}),
    "jsonl in zst": (bytes_to("c.jsonl.zst", zstandard.compress(JSON_LINES)), {"path": "c.jsonl.zst", "field": "a.b"}),
    "parquet": (parquet, {"path": "*.parquet", "field": "a.b"}),
    "arrow": (arrow, {"path": "*.arrow"}),
    "hugging face": (hugging_face, {"path": "set"}),
    "webdataset": (webdataset, {"path": "*.tar"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_prepare_of_each_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    write, source = FORMATS[name]
    write(tmp_path)
    made = prepare_lines(tmp_path, tmp_path / "d", sources=[source])
    assert sorted(documents(made)) == sorted(TEXTS)
    assert verify(made.dir).problems == ()
    before = times_of_change(made.dir)
    prepare_lines(tmp_path, tmp_path / "d", refuse_to_run, sources=[source])
    assert times_of_change(made.dir) == before
    prepare_lines(tmp_path, tmp_path / "e", sources=[source])
    assert public_files(tmp_path / "e") == public_files(tmp_path / "d")


def tokens_in(kind: str, base: Path, documents: list[list[int]]) -> dict[str, Any]:
    """Writes documents of ids, and gives the source that reads them."""
    if kind == "megatron":
        write_pair(base / "c", [[ids] for ids in documents], "uint16")
        return {"path": "c.bin"}
    if kind == "parquet":
        pq.write_table(pa.table({"ids": documents}), base / "c.parquet", row_group_size=16)
    else:
        (base / "c.jsonl").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in documents))
    return {"path": f"c.{kind}", "format": "tokens", "field": "ids"}


@pytest.mark.parametrize("kind", ["megatron", "parquet", "jsonl"])
@pytest.mark.parametrize("with_end_marks", [False, True])
def test_prepare_of_ids_gives_the_dataset_of_their_texts(tmp_path: Path, kind: str, with_end_marks: bool) -> None:
    (tmp_path / "c.txt").write_bytes(LINES)
    of_text = prepare_lines(tmp_path, tmp_path / "d", sources=[{"path": "c.txt", "document": "line"}])
    tokenizer = load_tokenizer(of_text.tokenizer_path)
    end = [tokenizer.eot_id] if with_end_marks else []
    source = tokens_in(kind, tmp_path, [ids.tolist() + end for ids in tokenizer.encode(TEXTS)])
    of_ids = prepare_lines(tmp_path, tmp_path / "e", sources=[source], tokenizer=str(of_text.tokenizer_path))
    assert sorted(documents(of_ids)) == sorted(TEXTS)
    assert sum(shard.text_bytes for shard in of_ids.shards) == sum(len(text.encode()) for text in TEXTS)
    assert sum(map(of_ids.tokens, ("train", "val"))) == sum(map(of_text.tokens, ("train", "val")))


def test_prepare_of_ids_the_tokenizer_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(train_tokenizer(TEXTS, 300))
    source = tokens_in("jsonl", tmp_path, [[1, 2], [3, 100_000]])
    with pytest.raises(DataError, match=r"c\.jsonl:2: an id that the tokenizer does not have: id 100000, of 300"):
        prepare_lines(tmp_path, tmp_path / "e", sources=[source], tokenizer="tokenizer.json")


@pytest.mark.slow
def test_prepare_from_s3_gives_the_shards_of_the_local_corpus(tmp_path: Path, bucket: str) -> None:
    for write in (arrow, webdataset, parquet):
        write(tmp_path)
    (tmp_path / "c.jsonl").write_bytes(JSON_LINES)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(LINES, mtime=0))
    fsspec.filesystem("s3").put(str(tmp_path), f"{bucket}/corpus", recursive=True)
    sources: list[dict[str, Any]] = [
        {"path": "c.jsonl", "field": "a.b"},
        {"path": "*.parquet", "field": "a.b"},
        {"path": "c.txt.gz", "document": "line"},
        {"path": "*.tar"},
        {"path": "*.arrow"},
    ]
    local = prepare_lines(tmp_path, tmp_path / "d", sources=sources, unit_bytes=1 << 20)
    remote = [{**source, "path": f"{bucket}/corpus/{source['path']}"} for source in sources]
    tokenizer = str(local.tokenizer_path)
    made = prepare_lines(tmp_path, tmp_path / "e", sources=remote, unit_bytes=1 << 20, tokenizer=tokenizer)
    assert [shard.sha256 for shard in made.shards] == [shard.sha256 for shard in local.shards]
    assert sorted(documents(made)) == sorted(TEXTS * 5)
    before = times_of_change(made.dir)
    prepare_lines(tmp_path, tmp_path / "e", refuse_to_run, sources=remote, unit_bytes=1 << 20, tokenizer=tokenizer)
    assert times_of_change(made.dir) == before


def documents(dataset: Dataset) -> list[str]:
    numbers = {split: sum(shard.documents for shard in dataset.split(split)) for split in ("train", "val")}
    return [show(dataset, n, split) for split, number in numbers.items() for n in range(number)]
