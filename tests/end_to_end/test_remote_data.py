"""A run whose corpus and dataset lie on an S3 server."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import fsspec
import pytest

from data_shards.object_folder import ObjectFolder
from data_shards.prepare import prepare
from data_shards.verify import verify
from tests.data_shards.s3 import bucket, s3_server  # noqa: F401  fixtures
from tests.end_to_end.headrace import (
    events,
    headrace,
    newest_step,
    pids_titled,
    run_file,
    started,
    steps,
    wait_until,
    write_corpus,
)
from trainer.config import load_run_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STEPS = 30


def far_file(folder: Path, address: str) -> Path:
    """The tiny run, with nothing of its data in the folder but the node's copies."""
    data: dict[str, Any] = {
        "dir": f"{address}/dataset",
        "sources": [{"path": f"{address}/corpus/*.txt", "document": "line"}],
        "tokenizer": {"train": "bpe", "vocab_size": 320},
        "val_fraction": 0.1,
        "unit_bytes": 12_000,
        "cache_dir": str(folder / "cache"),
        "cache_bytes": 1 << 20,
    }
    return run_file(folder, "far", data=data, train__max_steps=STEPS)


@pytest.mark.faults
@pytest.mark.long
def test_run_on_s3_killed_stopped_and_resumed_elsewhere_trains_every_step(
    bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    write_corpus(tmp_path / "corpus")
    fsspec.filesystem("s3").put(str(tmp_path / "corpus"), f"{bucket}/corpus", recursive=True)
    config = load_run_file(run_file(tmp_path, "near"))
    prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
    near = {path.name: path.read_bytes() for path in (tmp_path / "data").glob("*.tar")}
    shutil.rmtree(tmp_path / "corpus")
    (tmp_path / "corpus").mkdir()
    file, out_dir = far_file(tmp_path, bucket), tmp_path / "runs/far"

    with started("run", file, log=tmp_path / "far.log") as driver:
        wait_until(lambda: newest_step(out_dir) >= 8, "step 8")
        [rank] = pids_titled("headrace: rank 1/2 of far")
        os.kill(rank, signal.SIGKILL)
        wait_until(lambda: newest_step(out_dir) >= 14, "step 14")
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 3, (tmp_path / "far.log").read_text()
    shutil.rmtree(tmp_path / "cache")  # as on a machine that has no copies
    done = headrace("run", file)

    assert done.returncode == 0, done.stderr
    assert f"dataset     {bucket}/dataset" in done.stdout
    assert {record["step"] for record in steps(out_dir)} == set(range(1, STEPS + 1))
    assert len({(record["step"], record["sequence_hash"]) for record in steps(out_dir)}) == STEPS
    assert len(events(out_dir, "start")) == 3
    assert len(events(out_dir, "rank_dead")) == 1
    assert events(out_dir, "eval")[-1]["final"]
    folder = ObjectFolder(f"{bucket}/dataset")
    assert {name: folder.read(name) for name in folder.names() if name.endswith(".tar")} == near
    assert verify(f"{bucket}/dataset").problems == ()
