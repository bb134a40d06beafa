from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.trainer.plan_cases import Case, memory_model, run_config
from trainer.batch import BatchPlan, plan_batch
from trainer.config import RunConfig
from trainer.errors import SmallerMicroBatchError
from trainer.fitting import MOST_TOKENS_ON_GPU, fitting_batch, most_rows, planned_batch
from trainer.micro_batch import FILE, choose_batch, stepping_down
from trainer.plan_memory import MemoryModel, Setting

CPU = torch.device("cpu")
CASE = Case("tiny", 2, 1)


def model_of(global_batch: int, device: str = "cuda", **train: Any) -> MemoryModel:
    config = run_config(**{**CASE.train, "global_batch_size": global_batch, "micro_batch_size": "auto", **train})
    known = memory_model(CASE, device)
    return MemoryModel(config, known.shape, known.sizes, "fp32", device, 1)


def peak(model: MemoryModel, rows: int) -> int:
    return model.plan(Setting(2, rows, "none")).needed(model.device)


def test_fitting_batch_with_room_takes_the_whole_share_on_a_gpu() -> None:
    assert fitting_batch(model_of(24), 1 << 40) == BatchPlan(24, 1, 24, 1)


def test_fitting_batch_on_a_cpu_takes_eight_at_most() -> None:
    assert fitting_batch(model_of(24, "cpu"), 1 << 40) == plan_batch(24, "auto", 1)


def test_fitting_batch_with_less_room_takes_what_fits() -> None:
    model = model_of(64)
    assert fitting_batch(model, peak(model, 8)).micro_batch == 8


def test_fitting_batch_takes_smaller_passes_that_pad_less() -> None:
    model = model_of(32)
    assert fitting_batch(model, peak(model, 6)) == BatchPlan(32, 1, 4, 8)  # six passes of 6 would compute 36 rows


def test_fitting_batch_without_room_is_of_one_sequence() -> None:
    assert fitting_batch(model_of(8), 1).micro_batch == 1


def test_planned_batch_takes_the_run_files_own() -> None:
    assert planned_batch(model_of(8, micro_batch_size=2), 1).micro_batch == 2


def test_most_rows_of_long_sequences_is_one() -> None:
    assert most_rows("cuda", 2 * MOST_TOKENS_ON_GPU) == 1
    assert most_rows("cuda", MOST_TOKENS_ON_GPU // 4) == 4


@pytest.fixture
def group() -> Any:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def config_in(folder: Path, **train: Any) -> RunConfig:
    config = model_of(16, **train).config
    return config.model_copy(update={"out_dir": str(folder)})


def choose(config: RunConfig) -> BatchPlan:
    return choose_batch(config, CASE.config, "fp32", CPU, 1, 1)


def kept(folder: Path) -> dict[str, int]:
    chosen: dict[str, int] = json.loads((folder / FILE).read_text())
    return chosen


def test_chosen_batch_is_kept(tmp_path: Path, group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(config_in(tmp_path)).micro_batch == 8
    monkeypatch.setattr("trainer.micro_batch.free_memory_bytes", lambda: 1)
    assert choose(config_in(tmp_path)).micro_batch == 8
    assert choose(config_in(tmp_path, activation_checkpointing="full")).micro_batch < 8  # another choice


def test_given_batch_is_not_kept(tmp_path: Path, group: None) -> None:
    assert choose(config_in(tmp_path, micro_batch_size=2)).micro_batch == 2
    assert not (tmp_path / FILE).exists()


def run_out(config: RunConfig, batch: BatchPlan) -> None:
    with stepping_down(config, batch, CPU):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_halves_the_passes_of_the_next_attempt(tmp_path: Path, group: None) -> None:
    config = config_in(tmp_path)
    for rows in (8, 4, 2):
        batch = choose(config)
        assert batch.micro_batch == rows
        with pytest.raises(SmallerMicroBatchError, match=f"passes of {rows} .* goes on with {rows // 2}"):
            run_out(config, batch)
    assert choose(config) == BatchPlan(16, 1, 1, 16)
    assert list(kept(tmp_path).values()) == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_out_of_memory_of_a_single_sequence_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run_out(config_in(tmp_path), BatchPlan(16, 1, 1, 16))


def test_out_of_memory_with_a_given_size_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run_out(config_in(tmp_path, micro_batch_size=8), BatchPlan(16, 1, 8, 2))
    assert not (tmp_path / FILE).exists()


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), stepping_down(config_in(tmp_path), plan_batch(16, 8, 1), CPU):
        raise RuntimeError("shape mismatch")
