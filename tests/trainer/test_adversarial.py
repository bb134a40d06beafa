from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.adversarial import no_shift, perturbation


@given(epsilon=st.floats(1e-3, 1e3), scale=st.sampled_from([1e-30, 1e-6, 1.0, 65536.0, 1e30]), seed=st.integers(0, 9))
def test_perturbation_has_length_epsilon_along_each_sequences_gradient(epsilon: float, scale: float, seed: int) -> None:
    gradient = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    shift = perturbation(gradient * scale, epsilon)
    lengths = shift.flatten(1).norm(dim=1)
    assert lengths.tolist() == pytest.approx([epsilon] * 3, rel=1e-5)
    torch.testing.assert_close(shift, epsilon * gradient / gradient.flatten(1).norm(dim=1)[:, None, None])


def test_perturbation_of_a_sequence_without_gradient_is_nothing() -> None:
    gradient = torch.zeros(2, 3, 4)
    gradient[1, 0, 0] = -2.0
    shift = perturbation(gradient, 0.5)
    assert shift[0].abs().max() == 0.0
    assert shift[1].flatten().tolist() == [-0.5] + [0.0] * 11


def test_no_shift_takes_a_gradient() -> None:
    shift = no_shift(torch.zeros(2, 3, dtype=torch.int64), 4)
    (shift.sum() * 3).backward()
    assert shift.grad is not None
    assert shift.grad.unique().tolist() == [3.0]
