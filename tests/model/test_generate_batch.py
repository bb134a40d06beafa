"""Several prompts together, with a cache: the same tokens as each alone without one."""

from __future__ import annotations

import pytest
import torch

from model.errors import ModelError
from model.generate import Generation, generate_batch, row_seed
from model.gpt import GPT
from model.sampling import Sampling, draw
from tests.model.shapes import build

NO_EOT = -1
GREEDY = Sampling(temperature=0.0)
PROMPTS = [[1, 2, 3], [7], [9, 8, 7, 6, 5, 4, 3, 2, 1, 9, 8, 7, 6], [], [5] * 16, list(range(40))]
FAMILIES = {
    "gpt2": {},
    "gpt1": {"norm_place": "after", "activation": "gelu"},
    "gptj": {
        "positions": "rotary",
        "rotary_dim": 4,
        "rotary_pairs": "neighbours",
        "parallel_block": True,
        "tied_head": False,
        "head_bias": True,
    },
    "llama": {
        "norm": "rms",
        "positions": "rotary",
        "activation": "swiglu",
        "n_head": 4,
        "n_kv_head": 2,
        "qkv_bias": False,
        "mlp_bias": False,
        "attention_out_bias": False,
    },
}


def sharp(seed: int = 0, **changes: object) -> GPT:
    """A model with logits far apart, so that rounding does not change what is drawn."""
    model = build(seed, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return model.eval()


def without_cache(model: GPT, prompt: list[int], count: int, sampling: Sampling, seed: int, eot_id: int) -> list[int]:
    """Each token from a pass over the last max_seq_len tokens."""
    ids, new = list(prompt) or [eot_id], []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([ids[-model.config.max_seq_len :]]))[0, -1, :100]
        seen = torch.zeros(100, dtype=torch.bool)
        seen[ids] = True
        token = draw(logits, seen, sampling, generator)
        if token == eot_id:
            break
        ids.append(token)
        new.append(token)
    return new


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.3, top_k=20, top_p=0.9, repetition_penalty=1.2)])
def test_generate_batch_is_each_prompt_alone_without_a_cache(family: str, sampling: Sampling) -> None:
    """30 tokens at max_seq_len 16: rows reach the window at different steps, and one prompt is longer than it."""
    model = sharp(**FAMILIES[family])
    together = generate_batch(model, PROMPTS, 30, sampling, seed=3, eot_id=99)
    alone = [without_cache(model, ids, 30, sampling, row_seed(3, row), 99) for row, ids in enumerate(PROMPTS)]
    assert together == alone
    assert len({tuple(ids) for ids in together}) > 3


def test_generate_batch_row_does_not_depend_on_the_others() -> None:
    model, sampling = sharp(), Sampling(1.5)
    four = generate_batch(model, [[1], [2, 3], [1], [4]], 12, sampling, seed=1, eot_id=NO_EOT)
    other = generate_batch(model, [[1], [9] * 8, [1]], 12, sampling, seed=1, eot_id=NO_EOT)
    assert four[0] == other[0] and four[2] == other[2]
    assert four[0] != four[2]  # the same prompt in another row is another draw


def test_generate_batch_at_512_tokens_is_the_same_with_and_without_a_cache() -> None:
    model = sharp(max_seq_len=512, n_layer=2)
    [ids] = generate_batch(model, [[1, 2, 3]], 509, GREEDY, seed=0, eot_id=NO_EOT)
    sequence = torch.tensor([[1, 2, 3, *ids]])
    with torch.no_grad():
        logits = model(sequence)[0, 2:-1]  # one pass over all: what each token's own pass would give
    assert len(ids) == 509
    assert logits.argmax(-1).tolist() == ids


def test_generation_lets_rows_leave_when_they_are_done() -> None:
    model = sharp()
    sizes: list[tuple[int, int]] = []
    hook = model.wte.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    generation = Generation(model, [[1], [2, 3], [4]], 5, GREEDY, seeds=[0, 0, 0], eot_id=NO_EOT)
    assert [token.row for token in generation.step()] == [0, 1, 2]
    generation.finish(1)
    assert [token.row for token in generation.step()] == [0, 2]
    while tokens := generation.step():
        last = tokens
    hook.remove()
    assert [token.is_last for token in last] == [True, True]
    assert sizes == [(3, 2), (2, 1), (2, 1), (2, 1), (2, 1)]


def test_generation_ends_each_row_at_its_end_of_text() -> None:
    model = sharp()
    free = generate_batch(model, [[1], [2]], 8, GREEDY, seed=0, eot_id=NO_EOT)
    end = free[0][3]
    wanted = [ids[: ids.index(end)] if end in ids else ids for ids in free]
    assert generate_batch(model, [[1], [2]], 8, GREEDY, seed=0, eot_id=end) == wanted


def test_generation_past_the_window_costs_no_pass_over_all_for_shorter_rows() -> None:
    model = sharp()
    widths: list[tuple[int, int]] = []
    hook = model.wte.register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape)))
    generate_batch(model, [[1] * 14, [2]], 10, GREEDY, seed=0, eot_id=NO_EOT)
    hook.remove()
    # Two rows together until the longer is 17 tokens long; then it slides, and the other begins a cache of its own.
    assert widths == [(2, 14), (2, 1), (2, 1), (1, 4), (1, 16), *[(1, 1), (1, 16)] * 6]


def test_generate_batch_in_bf16_keeps_its_cache_in_bf16() -> None:
    model = sharp().to(torch.bfloat16)
    found = generate_batch(model, [[1, 2], [3]], 6, GREEDY, seed=0, eot_id=NO_EOT)
    assert [len(ids) for ids in found] == [6, 6]


def test_row_seed_of_the_first_row_is_the_seed() -> None:
    assert row_seed(17, 0) == 17
    assert len({row_seed(17, row) for row in range(100)} | {row_seed(18, row) for row in range(100)}) == 200


def test_generate_batch_with_an_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match="token id 100"):
        generate_batch(build(), [[1], [2, 100]], 1, GREEDY, seed=0, eot_id=NO_EOT)
