"""Training a classifier and an encoder-decoder against a plain loop that runs each record by itself."""

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
from model.encoder_decoder import build_model
from model.gpt import GPT
from tests.trainer.parity_world import GLOBAL_BATCH, SEED, make_dataset, rate_of, settings
from tests.trainer.variants_world import (
    CLASS_WEIGHTS,
    CLASSES,
    FIRST_EVALUATED,
    MODELS,
    STEPS,
    VariantLoader,
)
from tests.trainer.worlds import run_jobs
from trainer.optimizer import parameter_groups
from trainer.seeds import derive_seed

pytestmark = pytest.mark.slow

STAGES = [0, 1, 2, 3]
WORLD_SIZES = [2, pytest.param(1, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]


def records_of(batch: StepBatch) -> list[tuple[np.ndarray, int]]:
    """The ids of each record or row, and how many of them are its prompt's or prefix's."""
    starts = batch.document_starts or [np.empty(0, np.int64)] * len(batch.tokens)
    found = []
    for row, borders in enumerate(starts):
        for first, end in zip([0, *borders], [*borders, len(batch.tokens[row])], strict=True):
            if batch.decoder_starts is not None and end - first > 1:
                found.append((batch.tokens[row, first:end], int(batch.decoder_starts[row, first]) - first + 1))
            elif batch.decoder_starts is None and batch.loss_mask[row, end - 1]:  # type: ignore[index]
                found.append((batch.tokens[row, first:end], end - first - 1))
    return [(ids, prefix) for ids, prefix in found if prefix > 0]


def losses_apart(model: GPT, batch: StepBatch, variant: str) -> tuple[list[Tensor], np.ndarray]:
    """Cross-entropy of every label that counts, and a classification's matrix, each record run by itself."""
    losses, matrix = [], np.zeros((CLASSES, CLASSES), np.int64)
    for ids, prefix in records_of(batch):
        tokens = torch.from_numpy(ids)[None]
        if variant == "classes":
            logits = model(tokens[:, :-1])[0, -1:]
            weight = torch.tensor(CLASS_WEIGHTS) if model.training else torch.ones(CLASSES)
            losses.append(F.cross_entropy(logits, tokens[0, -1:]) * weight[tokens[0, -1]])
            matrix[ids[-1], int(logits.argmax())] += 1
            continue
        starts = torch.full_like(tokens[:, :-1], prefix - 1)
        logits = model(tokens[:, :-1], decoder_starts_bt=starts)[0, prefix - 1 :]
        kept = torch.ones(len(ids) - prefix, dtype=torch.bool)
        if variant == "prompts":  # a record without a completion has nothing that counts
            kept[:] = bool((ids[1:] % 3 == 0).any())
        losses += F.cross_entropy(logits[kept], tokens[0, prefix:][kept], reduction="none").unbind()
    return losses, matrix


@cache
def plain_loop(variant: str) -> dict[str, Any]:
    torch.manual_seed(derive_seed(SEED, "weights"))
    model, train = build_model(MODELS[variant]), settings(0)
    groups = parameter_groups(model, train)
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.optimizer.betas, eps=train.optimizer.eps)
    loader = VariantLoader(variant, make_dataset(Path(mkdtemp()) / "data"), 0, 1, GLOBAL_BATCH)
    state, seen = LoaderState(), []
    for step in range(1, STEPS + 1):
        batch = loader.read(state)
        state = batch.state_after
        losses, _ = losses_apart(model, batch, variant)
        loss = torch.stack(losses).sum() / len(losses)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip))
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
        optimizer.zero_grad()
        seen.append((loss.item(), norm, len(losses)))
    with torch.no_grad():
        losses, matrix = losses_apart(model.eval(), loader.read(LoaderState(consumed=FIRST_EVALUATED)), variant)
    values = dict(zip(("losses", "norms", "labels"), map(list, zip(*seen, strict=True)), strict=True))
    return {**values, "held_out": float(torch.stack(losses).mean()), "matrix": matrix.tolist()}


@pytest.fixture(scope="module", params=WORLD_SIZES, ids=lambda world_size: f"{world_size} ranks")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen, by case."""
    cases = [(variant, stage) for variant in MODELS for stage in STAGES]
    job = {"world_size": request.param, "cases": cases}
    [answer] = run_jobs("tests.trainer.variants_world", tmp_path_factory.mktemp("variants"), [job])
    return answer


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", MODELS)
def test_variant_at_any_stage_and_world_size_gives_the_plain_loops_losses_and_norms(
    variant: str, stage: int, trained: dict[str, Any]
) -> None:
    """The ranks have unequal numbers of labels, and classes of unequal weight; at three ranks one row only pads."""
    wanted, answer = plain_loop(variant), trained[f"{variant}, stage {stage}"]
    assert answer["labels"] == wanted["labels"]
    assert answer["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    assert answer["norms"] == pytest.approx(wanted["norms"], rel=1e-3)
    assert answer["held_out"] == pytest.approx(wanted["held_out"], rel=1e-5)
    if variant == "classes":
        assert answer["matrix"] == wanted["matrix"]
        assert np.count_nonzero(wanted["matrix"]) > 2
