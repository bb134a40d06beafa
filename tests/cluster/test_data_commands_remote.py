import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cluster.cli import main
from tests.data_shards.s3 import bucket as bucket
from tests.data_shards.s3 import s3_server as s3_server
from tests.data_shards.text_dataset import line, text_dataset

pytestmark = pytest.mark.slow


def answer(capsys: pytest.CaptureFixture[str], words: Sequence[object]) -> Any:
    assert main([str(word) for word in ("data", *words, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def test_data_commands_answer_of_a_dataset_at_an_address_as_of_its_copy(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [line(number, words=60) for number in range(60)]
    text_dataset(tmp_path / "d", {"a": texts}, val={"v": texts[:10]})
    address = f"{bucket}/d"
    fsspec.filesystem("s3").put(f"{tmp_path / 'd'}/", address, recursive=True)
    for words in (
        ["plan", "DIR", "--world", 3, "--seq-len", 64],
        ["stats", "DIR"],
        ["show", "DIR", 41],
        ["show", "DIR", 7, "--sequence", "--seq-len", 64],
    ):
        local, remote = (
            answer(capsys, [where if word == "DIR" else word for word in words]) for where in (tmp_path / "d", address)
        )
        for each in (local, remote):
            each.pop("dir", None)
        assert remote == local
