import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_shards.best_fit import best_fit_rows
from data_shards.examples import (
    Example,
    chat_example,
    class_example,
    completion_example,
    example_ends,
    fitted,
    row_tokens,
)
from data_shards.loss_bit import LOSS_BIT, counted_tokens, token_ids, with_loss

EOT = 0
IDS = st.lists(st.integers(1, 2**31 - 1), max_size=12)


def ids(*values: int) -> NDArray[np.uint32]:
    return np.array(values, dtype=np.uint32)


@given(IDS, IDS)
def test_completion_example_counts_the_completion_and_its_end_mark_alone(
    prompt: list[int], completion: list[int]
) -> None:
    example = completion_example(ids(*prompt), ids(*completion), EOT)
    assert token_ids(example).tolist() == [*(prompt or [EOT]), *completion, EOT]
    assert token_ids(example[counted_tokens(example)]).tolist() == [*completion, EOT]
    assert not counted_tokens(example)[0]


def test_class_example_of_two_texts_has_an_end_mark_between_and_counts_the_class_alone() -> None:
    assert class_example(ids(5, 6), ids(7), 3, EOT).tolist() == [5, 6, EOT, 7, 3 + LOSS_BIT]
    assert class_example(ids(5, 6), None, 0, EOT).tolist() == [5, 6, LOSS_BIT]


def test_chat_example_ends_with_the_last_token_that_counts_and_an_end_mark() -> None:
    counted = np.array([False, True, False, True, False])
    assert chat_example(ids(1, 2, 3, 4, 5), counted, EOT).tolist() == [1, 2 + LOSS_BIT, 3, 4 + LOSS_BIT, EOT]
    ended = chat_example(ids(1, 2, 3, EOT, 5), counted, EOT)
    assert ended.tolist() == [1, 2 + LOSS_BIT, 3, LOSS_BIT]


@given(IDS.filter(bool), IDS, st.integers(1, 30))
def test_fitted_takes_tokens_off_the_prompt_alone(prompt: list[int], completion: list[int], most: int) -> None:
    example = completion_example(ids(*prompt), ids(*completion), EOT)
    cut = fitted(example, most)
    if cut is None:
        assert most < len(completion) + 2  # a token of the prompt, and the end mark
    else:
        assert len(cut) == min(most, len(example))
        assert cut.tolist() == example[-len(cut) :].tolist()
        assert not counted_tokens(cut)[0]


def test_fitted_turn_that_is_cut_counts_no_more() -> None:
    chat = np.concatenate([ids(1), with_loss(ids(2, 3, 4)), ids(5, 6), with_loss(ids(7, 8))])
    cut = fitted(chat, 6)
    assert cut is not None
    assert cut.tolist() == [3, 4, 5, 6, 7 + LOSS_BIT, 8 + LOSS_BIT]
    assert fitted(chat, 2) is None


@st.composite
def example_lists(draw: st.DrawFn) -> list[Example]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
    return [
        completion_example(ids(*range(1, 1 + prompt)), with_id(number, completion), EOT)
        for number, (prompt, completion) in enumerate(sizes)
    ]


def with_id(number: int, completion: int) -> NDArray[np.uint32]:
    """A completion that says whose it is."""
    return np.full(completion + 1, 1000 + number, dtype=np.uint32)


@given(example_lists())
def test_row_tokens_hold_every_example_whole_in_one_row(examples: list[Example]) -> None:
    seq_len = 24
    rows = best_fit_rows([*map(len, examples)], seq_len)
    stored, starts = row_tokens(examples, rows, seq_len, EOT)
    assert len(stored) == len(rows) * seq_len + 1
    ends = example_ends(stored, starts)
    found = [stored[start:end].tolist() for start, end in zip(starts, ends, strict=True)]
    assert sorted(found) == sorted(example.tolist() for example in examples)
    assert (starts // seq_len == (ends - 1) // seq_len).all()
    assert np.array_equal(np.unique(starts // seq_len), np.arange(len(rows)))
    assert len(stored) - sum(map(len, examples)) == int((stored == EOT).sum() - _end_marks_of_prompts(examples))


def _end_marks_of_prompts(examples: list[Example]) -> int:
    return sum(int((example == EOT).sum()) for example in examples)
