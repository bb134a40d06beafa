"""`headrace checkpoint` on checkpoints in the run's folder and in an object store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import main
from monitoring.runs import create_run_folder
from tests.data_shards.remote import memory_address
from tests.data_shards.s3 import bucket, s3_server  # noqa: F401  fixtures
from tests.trainer.checkpoint_world import save, task
from trainer.checkpoint.fence import note_resumed
from trainer.checkpoint.save import write_part
from trainer.checkpoint.storage import open_storage
from trainer.config import dump_run_file, load_run_file

RANK_1 = "rank-00001-of-00002.safetensors"


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A run with two checkpoints and a save that was cut short, and where they lie."""
    remote = {"memory": memory_address, "s3": lambda: f"{request.getfixturevalue('bucket')}/run"}
    address = None if request.param == "folder" else remote[request.param]()
    file = tmp_path / "mill.yaml"
    document: dict[str, Any] = {
        "data": {"sources": ["a.txt"], "tokenizer": {"train": "bpe", "vocab_size": 300}},
        "train": {"max_steps": 9, "global_batch_size": 8, "lr": 1e-3},
        "checkpoint": {"dir": address},
    }
    file.write_text(yaml.safe_dump(document))
    out_dir = tmp_path / "runs/mill"
    create_run_folder(out_dir, "run-1", "mill", dump_run_file(load_run_file(file)))
    for step in (100, 200):
        save(out_dir, step=step, address=address)
    torn = task(out_dir, rank=1, step=300, address=address)
    write_part(torn.open(), torn)
    yield out_dir, address or str(out_dir / "checkpoints")


def answer(capsys: pytest.CaptureFixture[str], status: int, *words: object) -> Any:
    assert main(["checkpoint", *map(str, words), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_checkpoint_list_and_inspect(place: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    out_dir, address = place
    listed = answer(capsys, 0, "list", out_dir)
    assert [(row["step"], row["path"], row["problem"]) for row in listed] == [
        (100, f"{address}/step-00000100", None),
        (200, f"{address}/step-00000200", None),
    ]
    inspected = answer(capsys, 0, "inspect", out_dir)
    assert (inspected["step"], inspected["path"]) == (200, f"{address}/step-00000200")
    assert inspected["bytes"] == listed[1]["bytes"]
    assert main(["checkpoint", "list", str(out_dir)]) == 0
    assert f"{address}/step-00000300 has no manifest" in capsys.readouterr().out


def test_checkpoint_list_names_what_does_not_count(place: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    out_dir, _ = place
    note_resumed(out_dir, 2, 150)
    listed = answer(capsys, 0, "list", out_dir)
    assert [row["problem"] is None for row in listed] == [True, False]
    assert "a newer one had gone on from an earlier step" in listed[1]["problem"]
    assert answer(capsys, 0, "inspect", out_dir)["step"] == 100


def test_checkpoint_verify_names_the_bad_file(place: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    out_dir, address = place
    storage = open_storage(address)
    content = bytearray(storage.read(f"step-00000100/{RANK_1}") or b"")
    content[-3] ^= 4
    storage.write(f"step-00000100/{RANK_1}", iter([bytes(content)]))
    problems = answer(capsys, 1, "verify", out_dir)
    assert problems[f"{address}/step-00000200"] == []
    assert f"{address}/step-00000100/{RANK_1}: its bytes have changed" in problems[f"{address}/step-00000100"][0]
    assert "has no manifest" in problems[f"{address}/step-00000300"][0]
