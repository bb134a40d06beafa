from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.documents import DocumentLayout, document_layout
from model.errors import ModelError
from model.gpt import GPT
from tests.model.shapes import SMALL, build, gradients, random_tokens

T = SMALL.max_seq_len


def random_lengths(rows: int, seed: int) -> list[int]:
    """Rows of T tokens cut into documents at random places."""
    generator = np.random.default_rng(seed)
    cuts = [np.sort(generator.choice(np.arange(1, T), generator.integers(0, 6), replace=False)) for _ in range(rows)]
    return [int(length) for row in cuts for length in np.diff(row, prepend=0, append=T)]


def layout(lengths: list[int], seq_len: int = T) -> DocumentLayout:
    return document_layout(np.array(lengths), seq_len)


def alone(rows_bt: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    """Each document as a batch of its own, [1, length]."""
    return (document[None] for document in rows_bt.flatten().split(lengths))


def label_weights(lengths: list[int]) -> Tensor:
    """Random weights [B, T], 0 at each document's last token, whose label is another document's."""
    weights = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(3))
    weights[np.cumsum(lengths) - 1] = 0.0
    return weights.view(-1, T)


@pytest.mark.parametrize("seed", range(6))
def test_documents_in_a_batch_have_the_logits_of_each_alone(seed: int) -> None:
    model, tokens, lengths = build().eval(), random_tokens(3, T), random_lengths(3, seed)
    packed = model(tokens, documents=layout(lengths)).flatten(0, 1)
    wanted = torch.cat([model(document)[0] for document in alone(tokens, lengths)])
    torch.testing.assert_close(packed, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", ["none", "full", "every_2"])
@pytest.mark.parametrize("seed", range(4))
def test_documents_in_a_batch_have_the_loss_and_gradients_of_each_alone(seed: int, checkpointing: str) -> None:
    tokens, labels, lengths = random_tokens(3, T), random_tokens(3, T, seed=2), random_lengths(3, seed)
    weights = label_weights(lengths)
    packed, apart = build(activation_checkpointing=checkpointing), build()
    loss = packed(tokens, labels, weights, documents=layout(lengths))
    loss.backward()
    each = [apart(*document) for document in zip(*(alone(x, lengths) for x in (tokens, labels, weights)), strict=True)]
    torch.stack(each).sum().backward()
    assert loss.item() == pytest.approx(sum(part.item() for part in each), rel=1e-6)
    for name, wanted in gradients(apart).items():
        torch.testing.assert_close(gradients(packed)[name], wanted, rtol=1e-5, atol=1e-5, msg=name)


def test_documents_do_not_see_each_other_at_all() -> None:
    model, tokens, lengths = build().eval(), random_tokens(1, T), [5, 3, 8]
    changed = tokens.clone()
    changed[0, 5:8] = (tokens[0, 5:8] + 1) % 100
    before, after = (model(row, documents=layout(lengths))[0, :, :100] for row in (tokens, changed))
    assert torch.equal(before[:5], after[:5])
    assert torch.equal(before[8:], after[8:])
    assert ((before[5:8] - after[5:8]).abs().amax(dim=1) > 1e-4).all()


def test_documents_that_fill_their_rows_are_the_plain_batch() -> None:
    model, tokens = build().eval(), random_tokens(3, T)
    torch.testing.assert_close(model(tokens, documents=layout([T, T, T])), model(tokens), rtol=0, atol=1e-6)


def step(model: GPT, lengths: list[int]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    rows = len(label_weights(lengths))
    model(random_tokens(rows, T), random_tokens(rows, T, seed=2), documents=layout(lengths)).backward()
    return gradients(model)


def test_documents_with_dropout_and_checkpointing_repeat_bit_for_bit() -> None:
    lengths = random_lengths(3, seed=1)
    plain, again, recomputed = (
        step(build(dropout=0.2, activation_checkpointing=mode), lengths) for mode in ("none", "none", "full")
    )
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    without = step(build(), lengths)
    assert not torch.equal(plain["wte.weight"], without["wte.weight"])


def test_documents_in_bfloat16_are_near_float32() -> None:
    lengths = random_lengths(3, seed=2)
    tokens, labels = random_tokens(3, T), random_tokens(3, T, seed=2)
    loss, half = (model(tokens, labels, documents=layout(lengths)) for model in (build(), build().bfloat16()))
    assert half.item() == pytest.approx(loss.item(), rel=1e-2)


def test_layout_counts_positions_from_each_documents_start() -> None:
    positions = layout([2, 1, 3, 6], seq_len=6).positions_bt
    assert positions.tolist() == [[0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert positions.dtype == torch.int64


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_layout_of_any_lengths_places_each_token_once_and_pads_by_a_quarter_at_most(lengths: list[int]) -> None:
    tokens = sum(lengths)
    made = layout(lengths, seq_len=tokens)
    places = made.place_n.numpy()
    assert len(set(places.tolist())) == tokens
    assert (made.token_m.numpy()[places] == np.arange(tokens)).all()
    assert sum(documents for documents, _ in made.groups) == len(lengths)
    assert tokens <= len(made.token_m) <= 1.25 * tokens
    rectangles = [place for documents, width in made.groups for place in [width] * documents]
    first_places = places[np.cumsum(lengths) - lengths]
    assert sorted(first_places.tolist()) == (np.cumsum(rectangles) - rectangles).tolist()


def test_layout_of_equal_lengths_is_one_group_without_padding() -> None:
    assert layout([4, 4, 4, 4]).groups == ((4, 4),)
    assert layout([9, 7]).groups == ((1, 7), (1, 9))


@pytest.mark.parametrize("lengths", [[], [5, 10], [10, 10, 12], [16, 0], [20, -4]])
def test_layout_of_lengths_that_do_not_fill_rows_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ModelError, match="fill rows of 16 tokens"):
        document_layout(np.array(lengths, dtype=np.int64), T)


def test_forward_with_a_layout_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match=r"laid out for rows and tokens \(1, 16\); the batch has \(2, 16\)"):
        build()(random_tokens(2, T), documents=layout([T]))
