"""Frozen parts, adapters, perturbed embeddings and stage borders under DeepSpeed, against plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_shards.loader import LoaderState
from model.gpt import GPT
from model.lora import add_adapters
from model.lora_settings import LoRASettings
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, make_dataset, make_loader
from tests.trainer.tuning_world import LOWER_HALF, RATE, STEPS, WAYS
from tests.trainer.worlds import run_jobs
from trainer.checkpoint.fragments import KINDS
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.store import newest_good
from trainer.seeds import derive_seed

pytestmark = pytest.mark.slow

ZERO_STAGES = [0, 1, 2, 3]
FROZEN = {
    "frozen": ("wpe", "h.0.ln_", "h.0.mlp"),
    "adapters": (),
    "adversarial": (),
    "all": ("h.0",),
}


def rate_of(name: str, layer_decay: float) -> float:
    """The rate of a model of two blocks, spelt out."""
    depth = {"h.1": 1, "h.0": 2, "wte": 3, "wpe": 3}
    return RATE * layer_decay ** depth.get(name[:3], 0)


def plain_model(way: str) -> tuple[GPT, torch.optim.AdamW]:
    torch.manual_seed(derive_seed(SEED, "weights"))
    model = GPT(MODEL)
    if "lora" in WAYS[way]:
        torch.manual_seed(derive_seed(SEED, "adapters"))
        add_adapters(model, LoRASettings(**WAYS[way]["lora"]))
    groups = []
    for name, parameter in model.named_parameters():
        if name.startswith(FROZEN[way] or "-") or ("lora" in WAYS[way] and "adapter" not in name):
            parameter.requires_grad_(False)
            continue
        rate = rate_of(name, WAYS[way].get("layer_decay", 1.0))
        groups.append({"params": [parameter], "lr": rate, "weight_decay": 0.1 if parameter.dim() > 1 else 0.0})
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.95))


def loss_of(model: GPT, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def perturbed_loss(model: GPT, tokens: Tensor, epsilon: float) -> Tensor:
    """The loss at the embeddings + epsilon g / ||g||, g found on the embeddings themselves."""
    embedded: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.wte.register_forward_hook(keep)
    [gradient] = torch.autograd.grad(loss_of(model, tokens), embedded)
    hook.remove()
    shift = torch.stack([epsilon * row / row.norm() for row in gradient])
    hook = model.wte.register_forward_hook(lambda module, inputs, output: output + shift)
    loss = loss_of(model, tokens)
    hook.remove()
    return loss


@cache
def plain_loop(way: str) -> dict[str, list[float]]:
    model, optimizer = plain_model(way)
    loader = make_loader(make_dataset(Path(mkdtemp()) / "data"), 0, 1, GLOBAL_BATCH)
    state, losses, norms = LoaderState(), [], []
    for _ in range(STEPS):
        batch = loader.read(state, GLOBAL_BATCH)
        state, tokens = batch.state_after, torch.from_numpy(batch.tokens)
        loss = loss_of(model, tokens)
        total = loss
        if "adversarial" in WAYS[way]:
            total = loss + perturbed_loss(model, tokens, WAYS[way]["adversarial"]["epsilon"])
        total.backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return {"losses": losses, "norms": norms}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


def few_and_many(few: Iterable[Any], many: Iterable[Any]) -> list[Any]:
    """Parameters of which those of `make test` come first, and all others are long."""
    kept = list(few)
    return kept + [pytest.param(*own, marks=pytest.mark.long) for own in many if own not in kept]


WAY_CASES = few_and_many(
    [("frozen", 0), ("adapters", 1), ("adversarial", 2), ("all", 3)],
    [(way, zero_stage) for way in WAYS for zero_stage in ZERO_STAGES],
)
BORDER_CASES = few_and_many(
    [("fp32", 2), ("fp32", 3), ("bf16", 1)],
    [(precision, zero_stage) for precision in ("fp32", "bf16") for zero_stage in ZERO_STAGES],
)
FULL_PRECISION_CASES = few_and_many([("fp32", 2), ("fp32", 3)], [("fp32", zero_stage) for zero_stage in ZERO_STAGES])


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Two ranks, on the cases that this session's tests ask for."""
    cases: dict[str, dict[str, Any]] = {}
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            asked = item.callspec.params
            if "way" in asked:
                cases[f"{asked['way']} {asked['zero_stage']}"] = asked
            else:
                name = f"border {asked['zero_stage']} {asked['precision']}"
                cases[name] = {**asked, "out_dir": str(folder / name)}
    [found] = run_jobs("tests.trainer.tuning_world", folder, [{"world_size": 2, "cases": cases}])
    return found


@pytest.mark.parametrize(("way", "zero_stage"), WAY_CASES)
def test_tuning_at_any_zero_stage_gives_the_plain_loops_losses_and_gradients(
    way: str, zero_stage: int, answers: dict[str, dict[str, list[float]]]
) -> None:
    expected, found = plain_loop(way), answers[f"{way} {zero_stage}"]
    assert len(set(expected["losses"])) == STEPS
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)


def test_tuning_in_each_way_trains_something_else() -> None:
    assert len({plain_loop(way)["losses"][-1] for way in WAYS}) == len(WAYS)
    assert plain_loop("adversarial")["losses"][0] == pytest.approx(math.log(MODEL.real_vocab_size), rel=0.05)


def contents(out_dir: Path) -> dict[str, Tensor]:
    """Every parameter of a checkpoint, float32."""
    choice = newest_good(out_dir)
    assert choice is not None
    with CheckpointReader(choice.address, choice.manifest) as reader:
        return {name: reader.full(name) for name in (*choice.manifest.shapes, *choice.manifest.frozen)}


@pytest.mark.parametrize(("precision", "zero_stage"), BORDER_CASES)
def test_border_carries_every_weight_bit_for_bit_into_a_fresh_optimizer(
    zero_stage: int, precision: str, folder: Path, answers: dict[str, dict[str, list[float]]]
) -> None:
    name = f"border {zero_stage} {precision}"
    before, after = contents(folder / name / "before"), contents(folder / name / "after")
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    choice = newest_good(folder / name / "after")
    assert choice is not None and choice.manifest.frozen == {}
    with CheckpointReader(choice.address, choice.manifest) as reader:
        for key, shape in choice.manifest.shapes.items():
            assert reader.step(key) == 0.0
            for kind in KINDS[1:]:
                moment = torch.ones(math.prod(shape))
                reader.read_into(moment, key, kind, 0)
                assert moment.count_nonzero() == 0
    assert answers[name]["again"] == answers[name]["went_on"]


@pytest.mark.parametrize(("precision", "zero_stage"), FULL_PRECISION_CASES)
def test_frozen_parameters_stay_as_they_were_made_and_have_no_moments(
    precision: str, zero_stage: int, folder: Path, answers: dict[str, dict[str, list[float]]]
) -> None:
    torch.manual_seed(derive_seed(SEED, "weights"))
    initial = dict(GPT(MODEL).named_parameters())
    choice = newest_good(folder / f"border {zero_stage} fp32" / "before")
    assert choice is not None
    frozen = {name for name in initial if name.startswith(tuple(pattern[:3] for pattern in LOWER_HALF))}
    assert set(choice.manifest.frozen) == frozen
    found = contents(folder / f"border {zero_stage} fp32" / "before")
    assert {name for name in initial if torch.equal(found[name], initial[name])} == frozen
