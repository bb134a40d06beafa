from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.test_config import SMALLEST, write
from trainer.config import RunConfig, dump_run_file, load_run_file, parse_run_file
from trainer.errors import TrainError
from trainer.origin import Origin, parse_origin, resolve_origin


def test_origin_with_a_step_is_parted_unless_such_a_folder_is_there(tmp_path: Path) -> None:
    assert parse_origin("runs/a") == Origin(Path("runs/a"))
    assert parse_origin("runs/a@200") == Origin(Path("runs/a"), 200)
    assert parse_origin("runs/a@b") == Origin(Path("runs/a@b"))
    (tmp_path / "model@5").mkdir()
    assert parse_origin(str(tmp_path / "model@5")) == Origin(tmp_path / "model@5")


@pytest.mark.parametrize("text", ["first", "first@30"])
def test_origin_by_name_lies_beside_the_run_where_nothing_lies_at_the_path(text: str, tmp_path: Path) -> None:
    out_dir = tmp_path / "runs/second"
    assert resolve_origin(text, tmp_path, out_dir) == str(tmp_path / text)
    (tmp_path / "runs/first").mkdir(parents=True)
    assert resolve_origin(text, tmp_path, out_dir) == str(tmp_path / "runs" / text)
    (tmp_path / "first").mkdir()
    assert resolve_origin(text, tmp_path, out_dir) == str(tmp_path / text)


def with_preset(folder: Path, model: str, train: str) -> RunConfig:
    text = SMALLEST.replace("{preset: gpt2-tiny}", model).replace(
        "{max_tokens: 400_000, global_batch_size: 8, lr: 1.0e-3}", train
    )
    return load_run_file(write(folder, text))


def test_batch_and_rate_left_out_are_those_that_the_presets_authors_published(tmp_path: Path) -> None:
    config = with_preset(tmp_path, "{preset: gpt3-1.3b}", "{max_tokens: 400_000}")
    assert (config.train.global_batch_size, config.train.lr) == (512, 2.0e-4)
    assert config.tokens_per_step == 2**20
    shorter = with_preset(tmp_path, "{preset: gpt3-1.3b, max_seq_len: 1024}", "{max_tokens: 400_000}")
    assert shorter.train.global_batch_size == 1024
    assert parse_run_file(dump_run_file(shorter), "run.yaml") == shorter


def test_batch_and_rate_that_are_given_count(tmp_path: Path) -> None:
    config = with_preset(tmp_path, "{preset: gpt3-125m}", "{max_tokens: 400_000, lr: 1.0e-5}")
    assert (config.train.global_batch_size, config.train.lr) == (256, 1e-5)
    config = with_preset(tmp_path, "{preset: gpt3-125m}", "{max_tokens: 400_000, global_batch_size: 3}")
    assert (config.train.global_batch_size, config.train.lr) == (3, 6e-4)


@pytest.mark.parametrize("model", ["{preset: gpt2}", "{}", "{preset: llama-tiny}"])
def test_batch_and_rate_are_needed_where_nothing_was_published(model: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"train\.global_batch_size: this field is needed.*\n.*train\.lr"):
        with_preset(tmp_path, model, "{max_tokens: 400_000}")


@pytest.mark.parametrize("model", ["{preset: gpt3-125m, max_seq_len: long}", "{preset: [1]}", "{preset: gpt9}"])
def test_presets_with_impossible_values_are_refused_as_ever(model: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"model\.(preset|max_seq_len)"):
        with_preset(tmp_path, model, "{max_tokens: 400_000}")
