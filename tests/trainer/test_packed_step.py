"""Training on sequences of several documents against a plain loop that runs each document by itself."""

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
from tests.trainer.packed_world import FIRST_EVALUATED, STEPS, with_starts
from tests.trainer.parity_data import GLOBAL_BATCH, MODEL, SEED, SEQ_LEN, make_dataset, make_loader, rate_of, settings
from tests.trainer.worlds import run_jobs
from trainer.optimizer import parameter_groups
from trainer.seeds import derive_seed

pytestmark = pytest.mark.slow

CASES = {
    **{f"stage {stage}": {"stage": stage, "checkpointing": "none", "precision": "fp32"} for stage in range(4)},
    "stage 3, recomputed": {"stage": 3, "checkpointing": "full", "precision": "fp32"},
    "stage 2, bf16": {"stage": 2, "checkpointing": "none", "precision": "bf16"},
}
WORLD_SIZES = [1, 2, 3]


def loss_apart(model: GPT, batch: StepBatch) -> tuple[Tensor, int]:
    """Summed cross-entropy of every piece of a document that has a label, each in a forward pass of its own."""
    assert batch.document_starts is not None
    losses, labels = [], 0
    for row, starts in zip(batch.tokens, batch.document_starts, strict=True):
        for piece in np.split(row, starts):
            ids = torch.from_numpy(piece)
            if len(ids) > 1:
                losses.append(F.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum"))
                labels += len(ids) - 1
    return torch.stack(losses).sum(), labels


@cache
def plain_loop() -> dict[str, Any]:
    torch.manual_seed(derive_seed(SEED, "weights"))
    model, train = GPT(MODEL), settings(0)
    groups = parameter_groups(model, train)
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.optimizer.betas, eps=train.optimizer.eps)
    loader = make_loader(make_dataset(Path(mkdtemp()) / "data"), 0, 1, GLOBAL_BATCH)
    state, losses, norms, counts = LoaderState(), [], [], []
    for step in range(1, STEPS + 1):
        batch = with_starts(loader.read(state, GLOBAL_BATCH))
        state = batch.state_after
        loss, labels = loss_apart(model, batch)
        (loss / labels).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)))
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / labels)
        counts.append(labels)
    held_out, labels = loss_apart(model, with_starts(loader.read(LoaderState(consumed=FIRST_EVALUATED), GLOBAL_BATCH)))
    return {"losses": losses, "norms": norms, "labels": counts, "held_out": held_out.item() / labels}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What was seen, by world size and case."""
    jobs = [{"world_size": world_size, "cases": CASES} for world_size in WORLD_SIZES]
    answers = run_jobs("tests.trainer.packed_world", tmp_path_factory.mktemp("packed"), jobs)
    return dict(zip(WORLD_SIZES, answers, strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_documents_train_as_if_each_were_run_alone(
    world_size: int, case: str, trained: dict[int, dict[str, Any]]
) -> None:
    """At any stage and world size, also where a rank's rows have fewer labels than another's, or only pad."""
    wanted, answer = plain_loop(), trained[world_size][case]
    assert answer["labels"] == wanted["labels"]
    assert max(wanted["labels"]) < GLOBAL_BATCH * SEQ_LEN
    full = CASES[case]["precision"] == "fp32"
    assert answer["losses"] == pytest.approx(wanted["losses"], rel=1e-5 if full else 1e-2)
    assert answer["norms"] == pytest.approx(wanted["norms"], rel=1e-3 if full else 5e-2)
    assert answer["held_out"] == pytest.approx(wanted["held_out"], rel=1e-5 if full else 1e-2)
