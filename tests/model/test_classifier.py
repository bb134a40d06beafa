from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from model.errors import ModelError
from model.flops import model_flops_per_token, parameter_count
from model.gpt import GPT
from tests.model.shapes import SMALL, build, random_tokens

CLASSES = 3


@pytest.mark.parametrize("changes", [{}, {"tied_head": False, "head_bias": True}])
def test_classifier_has_a_head_of_its_classes_and_none_over_the_vocabulary(changes: dict[str, object]) -> None:
    model = build(n_classes=CLASSES, **changes)
    names = dict(model.named_parameters())
    assert names["score.weight"].shape == (CLASSES, 32)
    assert not names.keys() & {"lm_head.weight", "head_bias", "score.bias"}
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    assert model(random_tokens(2, 5)).shape == (2, 5, CLASSES)
    blocks = 3 * (12 * 32 * 32 + 13 * 32) + 2 * 32
    assert model_flops_per_token(model.config, 16) == 6 * (blocks + CLASSES * 32) + 12 * 3 * 32 * 16


def class_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, labels and weights [2, 8]: a class at one place of the first row and two of the second."""
    tokens, weights = random_tokens(2, 8), torch.zeros(2, 8)
    labels = random_tokens(2, 8, seed=2)  # ids of text but where a class counts
    for row, place, number in ((0, 7, 2), (1, 3, 0), (1, 7, 2)):
        weights[row, place], labels[row, place] = 1.0, number
    return tokens, labels, weights


def test_classifier_loss_is_cross_entropy_over_classes_at_labels_that_count() -> None:
    model = build(n_classes=CLASSES)
    tokens, labels, weights = class_batch()
    logits = model(tokens)[weights > 0]
    wanted = F.cross_entropy(logits, labels[weights > 0], reduction="sum")
    assert model(tokens, labels, weights).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_class_weights_multiply_losses_and_gradients_in_training_alone() -> None:
    model, factors = build(n_classes=CLASSES), torch.tensor([0.5, 1.0, 3.0])
    model.class_weights = factors
    tokens, labels, weights = class_batch()
    chosen = labels[weights > 0]
    wanted = F.cross_entropy(model(tokens)[weights > 0], chosen, weight=factors, reduction="sum")
    wanted_gradient = torch.autograd.grad(wanted, model.score.weight)[0]
    loss = model(tokens, labels, weights)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(loss, model.score.weight)[0], wanted_gradient, atol=1e-6)
    plain = F.cross_entropy(model(tokens)[weights > 0], chosen, reduction="sum")
    assert model.eval()(tokens, labels, weights).item() == pytest.approx(plain.item(), rel=1e-6)


def test_class_weights_are_no_part_of_the_state() -> None:
    model = build(n_classes=CLASSES)
    before = model.state_dict().keys()
    model.class_weights = torch.ones(CLASSES)
    assert model.state_dict().keys() == before == GPT(model.config).state_dict().keys()


@pytest.mark.parametrize("n_classes", [1, 101])
def test_classes_that_cannot_be_stored_are_refused(n_classes: int) -> None:
    with pytest.raises(ModelError, match=f"a classifier of {n_classes} classes"):
        dataclasses.replace(SMALL, n_classes=n_classes)
