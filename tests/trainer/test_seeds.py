from __future__ import annotations

import torch

from trainer.seeds import derive_seed, seed_step


def test_seed_of_a_step_gives_the_same_dropout_in_every_attempt() -> None:
    def draw(step: int, rank: int) -> list[float]:
        seed_step(1337, step, rank)
        drawn: list[float] = torch.rand(4).tolist()
        return drawn

    first = draw(7, 0)
    assert draw(8, 0) != first
    assert draw(7, 1) != first
    assert draw(7, 0) == first


def test_seed_derived_is_a_positive_int64_and_known() -> None:
    assert 0 <= derive_seed(1, "a") < 2**63
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2) != derive_seed(1, "a", 3)
