from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.gpt import GPT
from tests.trainer.trained_run import T, random_model
from trainer.errors import TrainError
from trainer.language_model import LanguageModel
from trainer.scoring import Continuation, encode_pair, rows_at_once, score, windows


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_model(100, seed=4)


@given(
    context=st.lists(st.integers(), min_size=1, max_size=9),
    ids=st.lists(st.integers(), max_size=20),
    size=st.integers(1, 6),
)
def test_windows_predict_each_token_once_with_the_longest_context(
    context: list[int], ids: list[int], size: int
) -> None:
    tokens, at = context + ids, len(context)
    for inputs, targets in windows(context, ids, size):
        assert tokens[at : at + len(targets)] == targets
        end = at + len(targets)
        assert inputs == tokens[max(0, end - 1 - size) : end - 1]
        assert len(targets) <= len(inputs) <= size
        at = end
    assert at == len(tokens)


def test_windows_of_a_long_text_are_those_of_the_harness() -> None:
    """The example of its own documentation."""
    assert list(windows([-1], list(range(10)), 4)) == [
        ([-1, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]


def one_by_one(model: GPT, context: list[int], ids: list[int]) -> tuple[float, bool]:
    """Each token by a pass of its own over what is before it."""
    total, greedy, tokens = 0.0, True, list(context)
    for token in ids:
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([tokens]))[0, -1], dim=0)
        total, greedy = total + float(log_p[token]), greedy and int(log_p.argmax()) == token
        tokens.append(token)
    return total, greedy


def test_score_of_a_batch_is_that_of_each_token_by_itself(model: GPT) -> None:
    likeliest = int(model(torch.tensor([[5, 6]]))[0, -1].argmax())
    pairs = [([1], [2, 3, 4]), ([5, 6], [likeliest]), ([7] * 9, [8, 9]), ([1, 2], [])]
    found = score(model, [Continuation(*pair) for pair in pairs])
    for scored, (context, ids) in zip(found, pairs, strict=True):
        wanted, greedy = one_by_one(model, context, ids)
        assert scored.log_likelihood == pytest.approx(wanted, abs=1e-4)
        assert scored.is_greedy == greedy
    assert [scored.is_greedy for scored in found] == [False, True, False, True]


def test_score_of_a_text_longer_than_the_model_sees_is_the_sum_of_its_windows(model: GPT) -> None:
    ids = [(7 * i) % 100 for i in range(2 * T + 5)]
    [whole] = score(model, [Continuation([0], ids)])
    tokens = [0, *ids]
    parts = [(tokens[:1], ids[:T]), (tokens[T : T + 1], ids[T : 2 * T]), (tokens[T + 5 : 2 * T + 1], ids[2 * T :])]
    assert whole.log_likelihood == pytest.approx(sum(one_by_one(model, *part)[0] for part in parts), abs=1e-3)


def test_score_without_context_is_refused(model: GPT) -> None:
    with pytest.raises(TrainError, match="no token before it"):
        score(model, [Continuation([], [1])])


def test_encode_pair_moves_spaces_to_the_continuation(model: GPT) -> None:
    def encode(text: str) -> list[int]:
        return list(text.encode())

    plain = LanguageModel(model, encode, lambda ids: bytes(ids).decode(), eot_id=99)
    assert encode_pair(plain, "a b \n", "c") == Continuation(encode("a b"), encode(" \nc"))
    assert encode_pair(plain, "", "c") == Continuation([99], encode("c"))
    assert encode_pair(plain, " ", "c") == Continuation([99], encode(" c"))
    begun = LanguageModel(model, encode, plain.decode, eot_id=99, prefix_ids=(1,))
    assert encode_pair(begun, "a", "c") == Continuation([1, *encode("a")], encode("c"))
    assert encode_pair(begun, "", "c") == Continuation([1], encode("c"))


def test_rows_at_once_hold_256_megabytes_of_logits() -> None:
    assert rows_at_once(1024, 50304) == 1
    assert rows_at_once(256, 8192) == 32
    assert rows_at_once(16, 128) == 64
    assert rows_at_once(10**6, 50304) == 1
