import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_shards.dataset import Dataset
from data_shards.show import show
from data_shards.verify import verify
from tests.data_shards.corpora import prepare_lines, public_files, refuse_to_run, sentence, times_of_change

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


def documents(dataset: Dataset) -> list[str]:
    numbers = {split: sum(shard.documents for shard in dataset.split(split)) for split in ("train", "val")}
    return [show(dataset, n, split) for split, number in numbers.items() for n in range(number)]
