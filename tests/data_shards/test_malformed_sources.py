"""Files of every format that are cut, empty or have a bit flipped: a DataError or rejects, never anything else."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pyarrow import ipc

from data_shards.errors import DataError
from data_shards.pieces import cut_file
from data_shards.rejects import Rejects
from data_shards.settings import SourceSettings
from data_shards.sources import find_files
from data_shards.units import SplitRule, Unit
from tests.data_shards.test_megatron_source import write_pair
from tests.data_shards.test_webdataset_source import tar_of

TEXTS = [f"text {number} 三国 " * (1 + number % 9) for number in range(60)]
IDS = [list(range(number % 7, 20)) for number in range(60)]
JSON_LINES = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS).encode()
TABLE = pa.table({"text": TEXTS, "input_ids": IDS, "a": [{"text": text} for text in TEXTS]})


def write_parquet(path: Path, **options: Any) -> None:
    pq.write_table(TABLE, path, row_group_size=25, **options)


def write_arrow(path: Path, form: str, **options: Any) -> None:
    make = ipc.new_stream if form == "stream" else ipc.new_file
    with path.open("wb") as file, make(file, TABLE.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(TABLE, max_chunksize=25)


def write(folder: Path) -> None:
    """A good file of each format."""
    (folder / "lines.txt").write_text("\n".join(TEXTS))
    (folder / "a.jsonl").write_bytes(JSON_LINES)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(JSON_LINES))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(JSON_LINES))
    write_parquet(folder / "a.parquet")
    write_parquet(folder / "plain.parquet", compression="none", use_dictionary=False, write_page_checksum=True)
    write_parquet(folder / "nested.parquet", compression="zstd")
    write_arrow(folder / "stream.arrow", "stream")
    write_arrow(folder / "file.arrow", "file")
    write_arrow(folder / "zstd.arrow", "stream", compression="zstd")
    members = [(f"{i}.txt" if i % 2 else f"{i}.json", text.encode()) for i, text in enumerate(TEXTS)]
    tar_of(
        folder / "a.tar",
        [(n, d if n.endswith("txt") else json.dumps({"text": d.decode()}).encode()) for n, d in members],
    )
    (folder / "a.tar.gz").write_bytes(gzip.compress((folder / "a.tar").read_bytes()))
    (folder / "ids.jsonl").write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in IDS))
    write_parquet(folder / "ids.parquet")
    write_arrow(folder / "ids.arrow", "stream")
    write_pair(folder / "index", [[ids] for ids in IDS], "uint16")
    write_pair(folder / "ids", [[ids] for ids in IDS], "uint16")


# The file to harm, and the source.
SOURCES: dict[str, dict[str, Any]] = {
    "lines.txt": {"path": "lines.txt", "document": "line"},
    **{name: {"path": name} for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "plain.parquet")},
    "nested.parquet": {"path": "nested.parquet", "field": "a.text"},
    **{name: {"path": name} for name in ("stream.arrow", "file.arrow", "zstd.arrow", "a.tar", "a.tar.gz")},
    **{name: {"path": name, "format": "tokens"} for name in ("ids.jsonl", "ids.parquet", "ids.arrow")},
    "index.idx": {"path": "index.idx"},
    "ids.bin": {"path": "ids.bin"},
}


def outcome(folder: Path, source: dict[str, Any]) -> str:
    """What becomes of a source: "whole", "rejects" or the message of a DataError; anything else is raised."""
    rejects = Rejects("skip", logged_per_reason=0)
    settings = SourceSettings.model_validate({**source, "path": str(folder / source["path"])})
    try:
        for found in find_files(settings):
            unit = Unit("", "s", SplitRule("train"), cut_file(found, 500))
            for _ in unit.documents(rejects):
                pass
    except DataError as error:
        assert str(folder) in str(error)
        return str(error)
    return "rejects" if rejects.skipped else "whole"


def harmed(data: bytes, seed: int) -> bytes:
    """The data cut at a random place, or with some bits flipped."""
    chance = random.Random(seed)
    if seed % 3 == 0:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(1 + seed % 4):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write(folder)
    return folder


@pytest.mark.parametrize("name", SOURCES)
def test_harmed_file_is_told_of_and_never_a_traceback(good: Path, name: str) -> None:
    path = good / name
    data = path.read_bytes()
    try:
        assert outcome(good, SOURCES[name]) == "whole"
        path.write_bytes(b"")
        assert outcome(good, SOURCES[name]) != "rejects"
        seen = set()
        for seed in range(30):
            path.write_bytes(harmed(data, seed))
            seen.add(outcome(good, SOURCES[name]))
        assert seen != {"whole"}
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("lines.txt", "a.jsonl", "ids.jsonl")])
def test_file_cut_anywhere_is_refused(good: Path, name: str) -> None:
    path = good / name
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))  # a tar may be padded
    try:
        for part in range(1, 20):
            path.write_bytes(data[: end * part // 20])
            assert outcome(good, SOURCES[name]) not in ("whole", "rejects")
    finally:
        path.write_bytes(data)
