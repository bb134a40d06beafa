"""Training on completions, classes and cut texts, also with moved embeddings, against a plain loop.

The loop is one process that runs each record by itself; the ranks have unequal numbers of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_shards.loader import LoaderState, StepBatch
from model.encoder_decoder import build_model
from model.gpt import GPT
from tests.trainer.parity_data import GLOBAL_BATCH, SEED, make_dataset, rate_of, settings
from tests.trainer.variants_world import (
    CLASS_WEIGHTS,
    CLASSES,
    EPSILON,
    FIRST_EVALUATED,
    MODELS,
    PROMPT_IDS,
    STEPS,
    VARIANTS,
    VariantLoader,
    model_of,
)
from tests.trainer.worlds import run_jobs
from trainer.model_input import counted_labels
from trainer.optimizer import parameter_groups
from trainer.seeds import derive_seed

pytestmark = pytest.mark.slow

STAGES = [0, 1, 2, 3]
# Each variant at a stage in `make test`: two ranks, of unequal numbers of labels.
FEW = dict(zip(VARIANTS, (2, 1, 3, 0, 0, 3, 1), strict=True))


class Record(NamedTuple):
    """A record, or a row that is cut: its ids, how many of them are not learned, and its row."""

    ids: np.ndarray
    prefix: int
    row: int


def records_of(batch: StepBatch, model: str) -> Iterator[Record]:
    """Those that something is learned of."""
    starts = batch.document_starts or [np.empty(0, np.int64)] * len(batch.tokens)
    for row, borders in enumerate(starts):
        for first, end in zip([0, *borders], [*borders, len(batch.tokens[row])], strict=True):
            ids = batch.tokens[row, first:end]
            if model == "drawn cuts":
                assert batch.decoder_starts is not None
                yield Record(ids, int(batch.decoder_starts[row, first]) + 1, row)
                continue
            assert batch.loss_mask is not None
            learned = np.flatnonzero(batch.loss_mask[row, first:end])
            if len(learned) and len(ids) > 1 and learned[-1] > 0:
                yield Record(ids, int(learned[0]), row)


def losses_of(model: GPT, kind: str, record: Record, shift: Tensor | None = None) -> Tensor:
    """Cross-entropy of each label of a record that counts, [labels], the record run by itself."""
    tokens = torch.from_numpy(record.ids)[None]
    cuts = {}
    if model.config.arch == "encoder_decoder":
        cuts["decoder_starts_bt"] = torch.full_like(tokens[:, :-1], record.prefix - 1)
    logits = model(tokens[:, :-1], embedding_shift_btc=shift, **cuts)[0, record.prefix - 1 :]
    losses = F.cross_entropy(logits, tokens[0, record.prefix :], reduction="none")
    if kind == "classes" and model.training:
        losses = losses * torch.tensor(CLASS_WEIGHTS)[tokens[0, -1:]]
    return losses


def moved_loss(model: GPT, kind: str, records: Sequence[Record]) -> Tensor:
    """The sum of the losses with the embeddings of each row moved by epsilon along the gradient of the row's loss."""
    total = torch.zeros(())
    for _, of_row in groupby(records, key=lambda record: record.row):
        own = list(of_row)
        shifts = [torch.zeros(1, len(record.ids) - 1, model.config.n_embd, requires_grad=True) for record in own]
        loss = torch.cat([losses_of(model, kind, *both) for both in zip(own, shifts, strict=True)]).sum()
        gradients = torch.autograd.grad(loss, shifts)
        norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))  # type: ignore[arg-type]
        for record, gradient in zip(own, gradients, strict=True):
            total = total + losses_of(model, kind, record, EPSILON * gradient / norm).sum()
    return total


@torch.no_grad()
def judged(model: GPT, kind: str, batch: StepBatch) -> dict[str, Any]:
    records = list(records_of(batch, kind))
    found = {"held_out": float(torch.cat([losses_of(model, kind, record) for record in records]).mean())}
    if kind != "classes":
        return found
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    for record in records:
        matrix[record.ids[-1], int(model(torch.from_numpy(record.ids)[None, :-1])[0, -1].argmax())] += 1
    return {**found, "matrix": matrix.tolist()}


@torch.no_grad()
def likeliest(model: GPT, prompt: Sequence[int]) -> list[int]:
    """Eight tokens, or up to an end mark, each by a pass over all."""
    ids = list(prompt)
    while len(ids) < len(prompt) + 8:
        tokens = torch.tensor([ids])
        following = int(model(tokens, decoder_starts_bt=torch.full_like(tokens, len(prompt) - 1))[0, -1].argmax())
        if following == 0:
            break
        ids.append(following)
    return ids[len(prompt) :]


@cache
def plain_loop(variant: str) -> dict[str, Any]:
    """One process, each record by itself."""
    torch.manual_seed(derive_seed(SEED, "weights"))
    kind = model_of(variant)
    model, train = build_model(MODELS[kind]), settings(0)
    groups = parameter_groups(model, train)
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.optimizer.betas, eps=train.optimizer.eps)
    loader = VariantLoader(variant, make_dataset(Path(mkdtemp()) / "data"), 0, 1, GLOBAL_BATCH)
    state, seen = LoaderState(), []
    for step in range(1, STEPS + 1):
        batch = loader.read(state)
        state, records = batch.state_after, list(records_of(batch, kind))
        losses = torch.cat([losses_of(model, kind, record) for record in records])
        total = losses.sum() if variant == kind else losses.sum() + moved_loss(model, kind, records)
        (total / len(losses)).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip))
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.step()
        optimizer.zero_grad()
        seen.append((losses.mean().item(), norm, len(losses)))
    model.eval()
    values = dict(zip(("losses", "norms", "labels"), map(list, zip(*seen, strict=True)), strict=True))
    text = likeliest(model, PROMPT_IDS) if MODELS[kind].arch == "encoder_decoder" else None
    return {**values, **judged(model, kind, loader.read(LoaderState(consumed=FIRST_EVALUATED))), "text": text}


def train_cases(
    folder: Path, world_size: int, cases: list[tuple[str, int]], deadline_seconds: float = 110
) -> dict[str, Any]:
    """What was seen, by case."""
    job = {"world_size": world_size, "cases": cases}
    [answer] = run_jobs("tests.trainer.variants_world", folder, [job], deadline_seconds)
    return answer


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train_cases(tmp_path_factory.mktemp("variants"), 2, list(FEW.items()))


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda world_size: f"{world_size} ranks")
def all_cases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [(variant, stage) for variant in VARIANTS for stage in STAGES]
    return train_cases(tmp_path_factory.mktemp("variants"), request.param, cases, deadline_seconds=280)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_on_two_ranks_gives_the_plain_loops_losses_and_norms(variant: str, few: dict[str, Any]) -> None:
    assert_same(variant, few[f"{variant}, stage {FEW[variant]}"])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_at_any_stage_and_world_size_gives_the_plain_loops_losses_and_norms(
    variant: str, stage: int, all_cases: dict[str, Any]
) -> None:
    """At three ranks one row only pads."""
    assert_same(variant, all_cases[f"{variant}, stage {stage}"])


def assert_same(variant: str, answer: dict[str, Any]) -> None:
    wanted = plain_loop(variant)
    assert answer["labels"] == wanted["labels"]
    assert answer["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    assert answer["norms"] == pytest.approx(wanted["norms"], rel=1e-3)
    assert answer["held_out"] == pytest.approx(wanted["held_out"], rel=1e-5)
    assert answer.get("text") == wanted["text"]
    if model_of(variant) == "classes":
        assert answer["matrix"] == wanted["matrix"]
        assert np.count_nonzero(wanted["matrix"]) > 2


def test_ranks_have_unequal_numbers_of_labels_and_moved_embeddings_train_something_else(tmp_path: Path) -> None:
    for variant in MODELS:
        if variant != "drawn cuts":
            loaders = [VariantLoader(variant, make_dataset(tmp_path / f"{variant}-{r}"), r, 2, 2) for r in range(2)]
            counts = [int(counted_labels(loader.read(LoaderState())).sum()) for loader in loaders]
            assert counts[0] != counts[1] and sum(counts) == plain_loop(variant)["labels"][0]
    for variant in VARIANTS:
        if variant != model_of(variant):
            assert plain_loop(variant)["losses"][0] == plain_loop(model_of(variant))["losses"][0]
            assert plain_loop(variant)["losses"][-1] != plain_loop(model_of(variant))["losses"][-1]
