"""A worker's memory does not grow with the length of a document, a line or a file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_shards.tokenizer import parse_tokenizer, save_tokenizer, train_tokenizer

pytestmark = pytest.mark.slow

MIB = 1 << 20
# Reads a run's settings, writes the unit's shards, says how much memory it needed at most.
WORKER = """
import json, sys
from dataclasses import replace
from pathlib import Path
from data_shards.pieces import cut_file
from data_shards.settings import DataSettings, resolve_paths
from data_shards.units import plan_units
from data_shards.worker import UnitWorker
from tests.peak_memory import peak_rss_bytes

folder, fingerprint, source = sys.argv[1:]
given = {"sources": [json.loads(source)], "tokenizer": "tokenizer.json", "val_fraction": 1e-9}
units = plan_units(resolve_paths(DataSettings.model_validate(given), Path(folder)), cut_file)
work = UnitWorker(folder, fingerprint, 65536, "fail")
results = [work(replace(unit, shard=number)) for number, unit in enumerate(units)]
shards = [shard for result in results for shard in result.shards]
peak = peak_rss_bytes() >> 20
print(json.dumps({"peak_mib": peak, "text_bytes": sum(shard.text_bytes for shard in shards),
                  "documents": sum(shard.documents for shard in shards)}))
"""


def run(folder: Path, source: dict[str, Any]) -> Any:
    data = train_tokenizer(["the mill race turns the wheel and the wheel turns the mill " * 3], 290)
    save_tokenizer(data, folder / "tokenizer.json")
    command = [sys.executable, "-c", WORKER, str(folder), parse_tokenizer(data, folder).fingerprint, json.dumps(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def write_long_line(path: Path, mib: int, start: bytes, end: bytes) -> int:
    """A line with so much text in it; the bytes of its text."""
    words = b"the mill race turns the wheel; " * (MIB // 31)
    with path.open("wb") as file:
        file.write(start)
        for number in range(mib):
            file.write(words + b"%07d " % number)
        file.write(end)
    return mib * (len(words) + 8)


@pytest.mark.parametrize(
    ("source", "start", "end"),
    [
        ({"path": "long", "document": "line"}, b"", b"\nshort\n"),
        ({"path": "long", "document": "file"}, b"", b"short"),
        ({"path": "long", "format": "jsonl"}, b'{"id": 1, "text": "', b'"}\n{"text": "short"}\n'),
    ],
)
def test_memory_does_not_grow_with_the_length_of_a_line(
    tmp_path: Path, source: dict[str, Any], start: bytes, end: bytes
) -> None:
    peaks = []
    for mib in (8, 136):
        size = write_long_line(tmp_path / "long", mib, start, end)
        found = run(tmp_path, source)
        assert found["text_bytes"] == size + len(b"short")
        assert found["documents"] == (1 if source.get("document") == "file" else 2)
        peaks.append(found["peak_mib"])
    assert peaks[1] - peaks[0] < 40  # of 128 more
    assert peaks[1] < 450
