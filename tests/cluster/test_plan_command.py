"""`headrace plan`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import main
from model.config import GPTConfig
from model.flops import model_flops_per_token
from trainer.config import load_run_file

RECIPES = Path(__file__).parents[2] / "recipes"
GPU_RECIPES = [("gpt2-124m", 1, 124_475_904), ("gpt-1.3b", 8, 1_315_819_520), ("gpt-7b", 32, 6_658_596_864)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    document: dict[str, Any] = {
        "data": {"sources": ["a.txt"], "tokenizer": {"train": "bpe", "vocab_size": 8192}},
        "model": {"preset": "gpt2-tiny"},
        "train": {"max_tokens": 1_000_000, "global_batch_size": 16, "lr": 1e-3},
        "cluster": {"workers": 2},
    }
    path = tmp_path / "mill.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def plan(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["plan", *map(str, words), "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["plan", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_plan_counts_parameters_steps_and_flops_exactly(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, file, "--accelerator", "H100")
    config = GPTConfig(vocab_size=8192, real_vocab_size=8192, n_layer=4, n_head=4, n_embd=256, max_seq_len=256)
    assert found["parameters"] == 5_322_240
    assert (found["steps"], found["tokens"]) == (244, 244 * 16 * 256)
    assert found["time"]["flops"] == model_flops_per_token(config, 256) * found["tokens"]
    assert (found["precision"], found["batch"]["world_size"]) == ("bf16", 2)


def test_plan_hours_are_flops_by_the_published_peak_and_the_utilisation(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(capsys, file, "--accelerator", "h100", "--utilisation", 0.5, "--world", 4)
    assert found["time"]["hours"] == pytest.approx(found["time"]["flops"] / (4 * 0.5 * 989.4e12) / 3600)


def test_plan_of_a_checkpoint_has_its_bytes_and_intervals(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, file, "--accelerator", "H100", "--disk", 2, "--mtbf-hours", 1000)["checkpoint"]
    assert found["bytes"] == 12 * 5_322_240
    assert found["seconds"] == found["bytes"] / 2e9
    assert found["young_seconds"] == pytest.approx((2 * found["seconds"] * 500 * 3600) ** 0.5)
    assert found["daly_seconds"] == pytest.approx(found["young_seconds"], rel=0.01)


def test_plan_of_this_machine_is_measured(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, file)
    assert found["hardware"]["is_measured"] is True
    assert (found["hardware"]["device"], found["precision"]) == ("cpu", "fp32")
    assert found["hardware"]["flops_per_second"] > 1e8
    assert found["time"]["hours"] > 0


def test_plan_that_does_not_fit_says_so_and_names_settings_that_do(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (file, "--accelerator", "H100", "--memory", 0.15, "--set", "train.micro_batch_size=8")
    found = plan(capsys, *words)
    assert found["fits"] is False
    assert found["nearest"]
    assert main(["plan", *map(str, words)]) == 0
    text = capsys.readouterr().out
    assert "does not fit: " in text
    best = found["nearest"][0]["setting"]
    changes = [f"train.{name}={best[field]}" for name, field in FIELDS.items()]
    again = plan(capsys, *words, *(word for change in changes for word in ("--set", change)))
    assert again["fits"] is True
    assert again["needed_bytes"] == found["nearest"][0]["needed_bytes"]


FIELDS = {
    "zero.stage": "stage",
    "micro_batch_size": "micro_batch",
    "activation_checkpointing": "checkpointing",
    "zero.offload": "offload",
}


def test_plan_where_nothing_fits_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(file), "--accelerator", "H100", "--memory", "0.001"]) == 0
    assert "no setting tried does, so take more ranks or a smaller model" in capsys.readouterr().out


def test_plan_with_auto_takes_smaller_passes_where_memory_is_short(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rich = plan(capsys, file, "--accelerator", "H100", "--world", 1)
    poor = plan(capsys, file, "--accelerator", "H100", "--world", 1, "--memory", 0.2)
    assert rich["batch"]["micro_batch"] == 16
    assert 1 < poor["batch"]["micro_batch"] < 16
    assert poor["fits"]


def test_plan_text_has_every_part(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(file), "--accelerator", "RTX-4090", "--set", "train.zero.stage=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for start in (
        "model: 5,322,240 parameters",
        "length: ",
        "ranks: 2",
        "memory of a rank with zero.stage 3",
        "fits: ",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert any("165 TFLOP/s published" in line for line in lines)
    assert any("Daly 2006" in line for line in lines)


@pytest.mark.parametrize(("world", "note"), [(1, " (one rank in fp32 trains at stage 0):"), (2, ":")])
def test_plan_text_tells_at_which_stage_one_rank_trains(
    file: Path, capsys: pytest.CaptureFixture[str], world: int, note: str
) -> None:
    assert main(["plan", str(file), "--world", str(world), "--set", "train.precision=fp32"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory of a rank")]
    assert line.endswith("activation_checkpointing none" + note)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--accelerator", "H10"), "--accelerator: must be one of B200"),
        (("--world", "0"), "--world: must be above 0, found 0"),
        (("--utilisation", "35"), "at most 1, found 35"),
        (("--accelerator", "V100", "--set", "train.precision=bf16"), "train.precision: bf16 needs a GPU"),
        (("--accelerator", "H100", "--set", "cluster.workers=auto"), "give --world N"),
        (("--set", "train.max_tokens=null", "--set", "train.epochs=1"), "holds no dataset yet"),
    ],
)
def test_plan_refuses_wrong_input(
    file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(capsys, file, *words)


@pytest.mark.parametrize(("name", "gpus", "parameters"), GPU_RECIPES)
@pytest.mark.parametrize("accelerator", ["H100", "A100"])
def test_gpu_recipe_loads_and_fits(
    name: str, gpus: int, parameters: int, accelerator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = RECIPES / f"{name}.yaml"
    assert load_run_file(file).train.precision == "bf16"
    found = plan(capsys, file, "--accelerator", accelerator)
    assert (found["batch"]["world_size"], found["parameters"], found["precision"]) == (gpus, parameters, "bf16")
    assert found["fits"] is True
    assert found["batch"]["micro_batch"] * found["batch"]["accumulation"] * gpus == found["batch"]["global_batch"]


@pytest.mark.parametrize("name", [name for name, _, _ in GPU_RECIPES])
def test_page_on_gpus_tells_what_plan_says_of_a_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(RECIPES / f"{name}.yaml"), "--accelerator", "H100"]) == 0
    assert capsys.readouterr().out.strip() in (RECIPES.parent / "docs/gpu.md").read_text()
