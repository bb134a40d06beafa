"""Shards that are missing, corrupt or cut while a run reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_shards.dataset import Dataset
from data_shards.loader import LoaderState, TrainLoader
from data_shards.prepare import prepare
from tests.end_to_end.headrace import (
    ROOT,
    environment,
    events,
    headrace,
    newest_step,
    run_file,
    started,
    steps,
    wait_until,
)
from trainer.config import load_run_file
from trainer.length import make_order

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BAD = 2  # number of the shard that is made bad


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that was prepared whole."""
    folder = tmp_path_factory.mktemp("bad-shards")
    config = load_run_file(run_file(folder, "first"))
    dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
    assert len(dataset.split("train")) > 4
    return folder


@pytest.fixture
def bad_path(folder: Path) -> Iterator[Path]:
    """The file of the shard to be made bad, whole again afterwards."""
    dataset = Dataset.open(folder / "data")
    path = dataset.shard_path(dataset.split("train")[BAD])
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def token_offset(folder: Path) -> int:
    return Dataset.open(folder / "data").split("train")[BAD].blocks[0].token_offset


def expected_hashes(folder: Path, file: Path, count: int, excluded: LoaderState) -> list[str]:
    """The sequence hashes of the run's steps where the positions of `excluded` are left out from the start."""
    config, dataset = load_run_file(file), Dataset.open(folder / "data")
    order = make_order(config, dataset)
    loader = TrainLoader(dataset, order, seq_len=config.seq_len, rank=0, world=1, micro_batch=1, on_bad_shard="skip")
    hashes, state = [], excluded
    for _ in range(count):
        batch, failures = loader.try_read(state, config.train.global_batch_size)
        assert batch is not None and not failures
        hashes.append(batch.sequence_hash)
        state = batch.state_after
    return hashes


@pytest.mark.faults
def test_corrupt_shard_is_skipped_by_two_ranks_and_a_resume_keeps_to_it(folder: Path, bad_path: Path) -> None:
    flip(bad_path, token_offset(folder))
    file = run_file(folder, "skip", data__on_bad_shard="skip", train__max_steps=12)
    done = headrace("train", file)
    assert done.returncode == 0, done.stderr
    out_dir = folder / "runs/skip"
    before = events(out_dir, "excluded")
    assert before
    assert f"warning: leaving out what cannot be read of {bad_path.name}: Block 000000 of shard" in done.stderr
    longer = run_file(folder, "skip", data__on_bad_shard="skip", train__max_steps=24)
    words = [sys.executable, "-m", "trainer", str(longer), "--accept-changes"]  # on one rank
    alone = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert alone.returncode == 0, alone.stderr
    told = events(out_dir, "excluded")
    assert {(event["shard"], event["end"] - event["start"]) for event in told} == {(bad_path.name, 1)}
    assert all("Block 000000 of shard" in event["reason"] for event in told)
    positions = [event["start"] for event in told]
    assert positions == sorted(set(positions))  # none is met a second time
    state = LoaderState()
    for position in positions:
        state = state.excluding(position, position + 1)
    records = steps(out_dir)
    assert [record["step"] for record in records] == list(range(1, 25))
    assert [record["sequence_hash"] for record in records] == expected_hashes(folder, file, 24, state)


@pytest.mark.faults
@pytest.mark.long
def test_corrupt_shard_ends_a_run_that_is_to_fail_by_name(folder: Path, bad_path: Path) -> None:
    flip(bad_path, token_offset(folder))
    done = headrace("train", run_file(folder, "fail", train__max_steps=40))
    assert done.returncode == 2, done.stderr
    assert f"{bad_path} is damaged: its tokens have the hash" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.faults
@pytest.mark.long
def test_shard_cut_while_mapped_ends_the_run_with_a_diagnosis_that_names_it(folder: Path, bad_path: Path) -> None:
    file = run_file(folder, "cut", train__max_steps=100_000)
    out_dir = folder / "runs/cut"
    with started("train", file, log=folder / "cut.log") as driver:
        wait_until(lambda: newest_step(out_dir) >= 40, "step 40, when every shard has been mapped")
        began = time.monotonic()
        os.truncate(bad_path, 600)  # of its first page something is left, the others are gone
        assert driver.wait(timeout=90) == 2
    assert time.monotonic() - began < 90
    log = (folder / "cut.log").read_text()
    assert f"Shard {bad_path} has 600 bytes and the manifest says" in log
    assert "was cut since it was made" in log
    assert "Traceback" not in log
    death = events(out_dir, "rank_dead")[0]
    assert death["signal"] == 7
    assert death["reason"].startswith("killed by signal 7 (SIGBUS: a file that it had mapped, such as a shard, was cut")
