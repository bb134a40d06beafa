"""A run with adapters, perturbed embeddings and rates by layer, and the plain model that comes out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.flops import model_flops_per_token
from model.gpt import GPT
from model.lora import is_adapter
from tests.end_to_end.headrace import events, run_file, steps
from tests.faults.rank_world import Start, run_files
from trainer.held_out import held_out_scores
from trainer.seeds import derive_seed
from trainer.trained import export_trained, open_trained

pytestmark = pytest.mark.slow

EVAL_TOKENS = 512


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    train = {"max_steps": 8, "global_batch_size": 8, "micro_batch_size": 2, "lr": 0.03, "zero": {"stage": 3}}
    ways = {"lora": {"rank": 4, "targets": ["*.attn.*"]}, "adversarial": {"epsilon": 0.1}, "layer_decay": 0.9}
    file = run_file(folder, "tuned", train={**train, **ways}, eval={"interval": 100, "max_tokens": EVAL_TOKENS})
    assert run_files(folder / "jobs", [Start(file)])[0]["status"] == 0
    return folder / "runs/tuned"


def test_adapters_are_merged_into_the_model_that_comes_out(out_dir: Path) -> None:
    """The plain model has the held-out loss that the adapted one had in training, and the base's other parameters."""
    trained = open_trained(out_dir)
    [end] = events(out_dir, "eval")
    assert held_out_scores(trained, EVAL_TOKENS)["loss"] == pytest.approx(end["val_loss"], rel=1e-5)
    torch.manual_seed(derive_seed(1337, "weights"))
    base, found = dict(GPT(trained.model_config).named_parameters()), dict(trained.parameters())
    assert found.keys() == base.keys()
    changed = {name for name, value in base.items() if not torch.equal(found[name], value)}
    assert changed == {f"h.{layer}.attn.{part}.weight" for layer in (0, 1) for part in ("c_attn", "c_proj")}


def test_utilisation_counts_the_passes_at_the_moved_embeddings(out_dir: Path) -> None:
    [peak] = json.loads((out_dir / "peak.json").read_text()).values()
    config = open_trained(out_dir).model_config
    for record in steps(out_dir):
        flops = record["mfu"] * peak / record["tokens_per_second"]
        assert flops == pytest.approx(2 * model_flops_per_token(config, config.max_seq_len))


def test_adapters_alone_have_moments_in_the_checkpoint(out_dir: Path) -> None:
    manifest = open_trained(out_dir).choice.manifest
    assert len(manifest.shapes) == 8
    assert all(is_adapter(name) for name in manifest.shapes)
    assert not any(is_adapter(name) for name in manifest.frozen)


def test_adapters_are_not_in_what_is_exported(out_dir: Path, tmp_path: Path) -> None:
    export_trained(open_trained(out_dir), tmp_path / "export")
    names = load_file(tmp_path / "export/model.safetensors").keys()
    assert not any("adapter" in name for name in names)
    assert any(name.endswith("h.1.attn.c_attn.weight") for name in names)
