"""The trainer against a plain PyTorch loop: same weights, same batches, same losses."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from torch.nn import functional as F

from data_shards.loader import LoaderState
from model.gpt import GPT
from tests.trainer.parity_data import (
    GLOBAL_BATCH,
    MODEL,
    SEED,
    STEPS,
    make_dataset,
    make_loader,
    rate_of,
    settings,
)
from tests.trainer.worlds import run_jobs
from trainer.optimizer import parameter_groups
from trainer.seeds import derive_seed

pytestmark = pytest.mark.slow

STAGES = [0, 1, 2, 3]
WORLD_SIZES = [1, 2, 3]


@cache
def plain_loop() -> tuple[list[float], list[float]]:
    """Losses and gradient norms of a loop that a reader of PyTorch's tutorials would write."""
    torch.manual_seed(derive_seed(SEED, "weights"))
    model = GPT(MODEL)
    train = settings(0)
    groups = parameter_groups(model, train)
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.optimizer.betas, eps=train.optimizer.eps)
    loader = make_loader(make_dataset(Path(mkdtemp()) / "data"), 0, 1, GLOBAL_BATCH)
    state, losses, norms = LoaderState(), [], []
    for step in range(1, STEPS + 1):
        batch = loader.read(state, GLOBAL_BATCH)
        state = batch.state_after
        tokens = torch.from_numpy(batch.tokens)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)))
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, norms


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, list[float]]]]:
    """Losses and norms by world size and stage."""
    jobs = [{"world_size": world_size, "stages": STAGES} for world_size in WORLD_SIZES]
    answers = run_jobs("tests.trainer.parity_world", tmp_path_factory.mktemp("parity"), jobs)
    return dict(zip(WORLD_SIZES, answers, strict=True))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_fifty_steps_at_any_stage_and_world_size_give_the_plain_loops_losses(
    world_size: int, stage: int, trained: dict[int, dict[str, dict[str, list[float]]]]
) -> None:
    """Three ranks do not divide the batch of 8: the short rank is padded, and the gradient stays the same."""
    losses, norms = plain_loop()
    assert losses[-1] < losses[0] - 0.5
    assert max(norms) > settings(0).grad_clip
    answer = trained[world_size][str(stage)]
    assert answer["losses"] == pytest.approx(losses, rel=1e-5)
    assert answer["norms"] == pytest.approx(norms, rel=1e-3)
