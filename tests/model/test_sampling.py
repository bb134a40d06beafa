from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.errors import ModelError
from model.sampling import Sampling, candidates, draw

UNSEEN = torch.zeros(50, dtype=torch.bool)


def random_logits(seed: int, size: int = 50) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    temperature=st.floats(0.2, 3.0),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.05, 0.999),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
)
def test_candidates_have_the_probabilities_of_transformers(
    seed: int, temperature: float, top_k: int | None, top_p: float | None, penalty: float
) -> None:
    from transformers.generation import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits, seen_ids = random_logits(seed), [3, 7, 7, 11]
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen_ids]), logits[None].clone())
    theirs = TemperatureLogitsWarper(temperature)(None, theirs)
    if top_k is not None:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p is not None:
        sums = torch.softmax(theirs[0], dim=0).sort(descending=True).values.cumsum(0)
        assume(bool(((sums - top_p).abs() > 1e-5).all()))  # on the very border, rounding decides
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    wanted = torch.softmax(theirs[0], dim=0)

    seen = UNSEEN.clone()
    seen[seen_ids] = True
    penalised = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    weights, ids = candidates(penalised, Sampling(temperature, top_k, top_p))
    found = torch.zeros(50)
    found[ids] = weights / weights.sum()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_draw_with_repetition_penalty_takes_another_token() -> None:
    logits = torch.tensor([2.0, 1.5, -1.0, -1.2])
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([True, False, True, False])
    greedy = Sampling(temperature=0.0, repetition_penalty=1.4)
    assert draw(logits, torch.zeros(4, dtype=torch.bool), greedy, generator) == 0
    assert draw(logits, seen, greedy, generator) == 1  # 2 / 1.4 is below 1.5
    negative = torch.tensor([-5.0, -6.0, -1.0, -1.2])
    assert draw(negative, seen, greedy, generator) == 3  # -1 * 1.4 is below -1.2


def test_draw_with_top_p_takes_the_fewest_that_have_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, count in ((0.4, 1), (0.5, 1), (0.6, 2), (0.79, 2), (0.81, 3), (1.0, 4)):
        _, ids = candidates(logits, Sampling(1.0, top_p=top_p))
        assert ids.tolist() == list(range(count)), top_p


def test_draw_follows_the_proportions() -> None:
    logits, generator = torch.tensor([0.6, 0.3, 0.1]).log(), torch.Generator().manual_seed(5)
    drawn = [draw(logits, UNSEEN[:3], Sampling(1.0, top_k=2), generator) for _ in range(1000)]
    assert set(drawn) == {0, 1}
    deviation = (1000 * (2 / 3) * (1 / 3)) ** 0.5
    assert abs(drawn.count(0) - 1000 * 2 / 3) < 4 * deviation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_sampling_outside_its_range_is_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Sampling(**change)  # type: ignore[arg-type]
