"""Muon, the mean over fragments and z-loss under DeepSpeed on two ranks, against a plain PyTorch loop on one.

The rows hold several documents, not alike from rank to rank, so that the ranks' label and fragment counts differ.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_shards.loader import LoaderState, StepBatch
from model.gpt import GPT
from tests.trainer.packed_world import STEPS, with_starts
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, make_dataset, make_loader, rate_of, settings
from tests.trainer.worlds import run_jobs
from trainer.muon import orthogonalized, update_scale
from trainer.optimizer import attention_blocks, muon_shapes
from trainer.seeds import derive_seed
from trainer.settings import TrainSettings

pytestmark = pytest.mark.slow

OBJECTIVES: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": {"name": "muon"}},
    "fragments": {"loss": {"normalize": "fragments"}},
    "z_loss": {"loss": {"z_loss": 0.01}},
    "all": {"optimizer": {"name": "muon"}, "loss": {"normalize": "fragments", "z_loss": 0.01}},
}
CASES = [("muon", 0), ("muon", 1), ("fragments", 0), ("z_loss", 0), *(("all", stage) for stage in (1, 2, 3))]


def pieces_loss(model: GPT, batch: StepBatch, train: TrainSettings) -> Tensor:
    """The step's loss, each piece of a document in a forward pass of its own."""
    assert batch.document_starts is not None
    pieces = []
    for row, starts in zip(batch.tokens, batch.document_starts, strict=True):
        for piece in np.split(row, starts):
            ids = torch.from_numpy(piece)
            if len(ids) > 1:
                logits = model(ids[None, :-1])[0][:, : MODEL.real_vocab_size]
                log_z = logits.logsumexp(1)
                pieces.append(F.cross_entropy(logits, ids[1:], reduction="none") + train.loss.z_loss * log_z.square())
    if train.loss.normalize == "fragments":
        return torch.stack([piece.mean() for piece in pieces]).mean()
    return torch.cat(pieces).mean()


class PlainMuon:
    """Muon as it is written down, on whole matrices."""

    def __init__(self, model: GPT, train: TrainSettings) -> None:
        matrices, self.blocks = muon_shapes(model), attention_blocks(model)
        self.matrices = {name: p for name, p in model.named_parameters() if name in matrices}
        self.moments = {name: torch.zeros_like(p) for name, p in self.matrices.items()}
        self.settings = train.optimizer

    @torch.no_grad()
    def step(self, rate: float) -> None:
        beta = self.settings.momentum
        for name, matrix in self.matrices.items():
            assert matrix.grad is not None
            moment = self.moments[name]
            moment.mul_(beta).add_(matrix.grad, alpha=1 - beta)
            direction = (1 - beta) * matrix.grad + beta * moment
            parts = torch.split(direction, list(self.blocks.get(name, [len(matrix)])))
            made = [orthogonalized(part, self.settings.ns_steps, torch.float32) for part in parts]
            scaled = [part * update_scale(*part.shape, self.settings.adjust_lr) for part in made]
            matrix.mul_(1 - rate * self.settings.weight_decay).sub_(torch.cat(scaled), alpha=rate)


@cache
def plain_loop(name: str) -> dict[str, Any]:
    torch.manual_seed(derive_seed(SEED, "weights"))
    model, train = GPT(MODEL), settings(0, **OBJECTIVES[name])
    muon = PlainMuon(model, train) if train.optimizer.name == "muon" else None
    adamw = [p for n, p in model.named_parameters() if muon is None or n not in muon.matrices]
    decays = [p for p in adamw if p.dim() > 1], [p for p in adamw if p.dim() < 2]
    groups = [
        {"params": p, "weight_decay": w} for p, w in zip(decays, (train.optimizer.weight_decay, 0.0), strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=train.optimizer.betas, eps=train.optimizer.eps)
    loader = make_loader(make_dataset(Path(mkdtemp()) / "data"), 0, 1, GLOBAL_BATCH)
    state, losses, norms, gradient = LoaderState(), [], [], torch.empty(0)
    for step in range(1, STEPS + 1):
        batch = with_starts(loader.read(state, GLOBAL_BATCH))
        state = batch.state_after
        loss = pieces_loss(model, batch, train)
        optimizer.zero_grad()
        model.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)))
        if step == 1:
            gradient = torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
        if muon is not None:
            muon.step(rate_of(step))
        losses.append(float(loss.detach()))
    return {"losses": losses, "norms": norms, "gradient": gradient}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks saw, by case."""
    base = {"checkpointing": "none", "precision": "fp32"}
    cases = {f"{name} {stage}": {**base, "stage": stage, "train": OBJECTIVES[name]} for name, stage in CASES}
    jobs = [{"world_size": 2, "cases": cases}]
    [answer] = run_jobs("tests.trainer.packed_world", tmp_path_factory.mktemp("objectives"), jobs)
    return answer


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_objective_on_two_ranks_trains_as_a_plain_loop_on_one(name: str, stage: int, trained: dict[str, Any]) -> None:
    wanted, answer = plain_loop(name), trained[f"{name} {stage}"]
    assert answer["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    assert answer["norms"] == pytest.approx(wanted["norms"], rel=1e-3)
    assert len({round(loss, 4) for loss in wanted["losses"]}) == STEPS


@pytest.mark.parametrize("name", ["fragments", "z_loss"])
def test_gradient_of_ranks_with_unequal_counts_is_that_of_one_rank(name: str, trained: dict[str, Any]) -> None:
    """Every element of it, by AdamW's first moment after one step."""
    wanted = plain_loop(name)["gradient"]
    found = torch.tensor(trained[f"{name} 0"]["moments"]) / (1 - settings(0).optimizer.betas[0])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))
