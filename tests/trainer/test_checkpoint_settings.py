"""Where a run file lets checkpoints lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config import RunConfig, load_run_file
from trainer.errors import TrainError
from trainer.launch import check_before_start


def load(folder: Path, **checkpoint: Any) -> RunConfig:
    file = folder / "mill.yaml"
    document = {
        "data": {"sources": ["a.txt"], "tokenizer": {"train": "bpe", "vocab_size": 300}},
        "train": {"max_steps": 9, "global_batch_size": 8, "lr": 1e-3},
        "checkpoint": checkpoint,
    }
    file.write_text(yaml.safe_dump(document))
    return load_run_file(file)


def test_checkpoint_dir_is_in_the_runs_folder_or_where_the_run_file_says(tmp_path: Path) -> None:
    assert load(tmp_path).checkpoint_dir == tmp_path / "runs/mill/checkpoints"
    assert load(tmp_path, dir="kept/here/").checkpoint_dir == tmp_path / "kept/here"
    assert load(tmp_path, dir="s3://bucket/run/").checkpoint_dir == "s3://bucket/run"


@pytest.mark.parametrize("value", ["", "/", 7])
def test_checkpoint_dir_that_names_no_place_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TrainError, match=r"checkpoint\.dir: must be"):
        load(tmp_path, dir=value)


def test_checkpoint_dir_that_cannot_be_written_is_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(TrainError, match=rf"checkpoint\.dir: {tmp_path}/taken must be a folder that can be written"):
        check_before_start(load(tmp_path, dir="taken"), 1)
    assert list((tmp_path / "runs/mill").rglob("*")) == []
