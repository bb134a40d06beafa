from __future__ import annotations

from collections import Counter

import pytest
import torch

from model.errors import ModelError
from model.generate import generate
from model.gpt import GPT
from tests.model.shapes import build

EOT = 99


@pytest.fixture
def model() -> GPT:
    """A model with logits far enough apart that sampling is not uniform, and some dropout to be turned off."""
    model = build(dropout=0.2)
    with torch.no_grad():
        model.wte.weight.mul_(8.0)
    return model


def test_generate_at_temperature_zero_is_the_argmax_loop(model: GPT) -> None:
    ids = [1, 2, 3]
    model.eval()
    for _ in range(30):  # beyond max_seq_len = 16: the window slides
        ids.append(int(model(torch.tensor([ids[-16:]]))[0, -1].argmax()))
    assert EOT not in ids
    assert generate(model, [1, 2, 3], 30, temperature=0.0, seed=0, eot_id=EOT) == ids[3:]


def test_generate_with_a_seed_is_repeatable(model: GPT) -> None:
    texts = [generate(model, [5], 20, temperature=2.0, seed=seed, eot_id=EOT) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_generate_leaves_random_state_and_mode_as_they_were(model: GPT) -> None:
    for training in (True, False):
        model.train(training)
        before = torch.get_rng_state()
        generate(model, [5], 5, seed=1, eot_id=EOT)
        assert torch.equal(before, torch.get_rng_state())
        assert model.training == model.h[0].training == training


def test_generate_never_emits_padding() -> None:
    model = build()
    with torch.no_grad():
        model.wte.weight[100:] = 10 * model.ln_f.weight  # would win each time
    ids = generate(model, [5], 300, temperature=50.0, seed=3, eot_id=EOT)
    assert max(ids) < 100
    assert max(generate(model, [5], 50, temperature=0.0, seed=3, eot_id=EOT)) < 100


def test_generate_with_top_k_takes_the_likeliest_alone(model: GPT) -> None:
    model.eval()
    likeliest = set(model(torch.tensor([[7]]))[0, -1].topk(3).indices.tolist())
    drawn = {generate(model, [7], 1, temperature=100.0, top_k=3, seed=s, eot_id=-1)[0] for s in range(60)}
    assert drawn == likeliest
    assert generate(model, [7], 9, top_k=1, seed=0, eot_id=EOT) == generate(
        model, [7], 9, temperature=0.0, seed=0, eot_id=EOT
    )


def test_generate_draws_by_the_softmax(model: GPT) -> None:
    model.eval()
    p = torch.softmax(model(torch.tensor([[7]]))[0, -1] / 0.7, dim=0)
    drawn = Counter(generate(model, [7], 1, temperature=0.7, seed=s, eot_id=-1)[0] for s in range(400))
    top = int(p.argmax())
    expected, deviation = 400 * p[top].item(), (400 * p[top].item() * (1 - p[top].item())) ** 0.5
    assert abs(drawn[top] - expected) < 4 * deviation


def test_generate_ends_before_the_end_of_text(model: GPT) -> None:
    ids = generate(model, [1, 2, 3], 10, temperature=0.0, seed=0, eot_id=-1)
    end = ids[4]
    assert generate(model, [1, 2, 3], 10, temperature=0.0, seed=0, eot_id=end) == ids[: ids.index(end)]


def test_generate_from_an_empty_prompt_begins_a_document(model: GPT) -> None:
    assert generate(model, [], 5, seed=0, eot_id=EOT) == generate(model, [EOT], 5, seed=0, eot_id=EOT)


def test_generate_of_nothing_is_empty(model: GPT) -> None:
    assert generate(model, [1], 0, seed=0, eot_id=EOT) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt_ids": [1, 100]}, "token id 100"),
        ({"prompt_ids": [-1]}, "token id -1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"top_k": 0}, "top_k is 0"),
    ],
)
def test_generate_with_an_impossible_request_is_refused(model: GPT, change: dict[str, object], said: str) -> None:
    request: dict[str, object] = {"prompt_ids": [1], "max_new_tokens": 1, "seed": 0, "eot_id": EOT}
    with pytest.raises(ModelError, match=said):
        generate(model, **(request | change))  # type: ignore[arg-type]
