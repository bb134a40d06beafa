from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.cache import DecoderCache, KeyValueCache
from model.config import GPTConfig
from model.documents import document_layout
from model.encoder_decoder import EncoderDecoder, build_model, continue_greedily
from model.errors import ModelError
from model.flops import model_flops_per_token, parameter_count
from model.gpt import GPT
from tests.model.shapes import SMALL, gradients, random_tokens

SHAPE = dataclasses.replace(SMALL, arch="encoder_decoder", n_encoder_layer=2)
MODERN = dataclasses.replace(
    SHAPE,
    **{
        "norm": "rms",
        "activation": "swiglu",
        "positions": "rotary",
        "n_kv_head": 1,
        "qkv_bias": False,
        "qk_norm": True,
    },
    **{"attention_out_bias": False, "mlp_bias": False, "tied_head": False, "n_encoder_layer": None},
)
SHAPES = {
    "gpt2": SHAPE,
    "gpt1": dataclasses.replace(SHAPE, norm_place="after"),
    "modern": MODERN,
    "head": dataclasses.replace(SHAPE, head_bias=True),
}


def built(shape: GPTConfig = SHAPE, **changes: object) -> EncoderDecoder:
    """Every parameter random, biases and norms too, and large enough for logits of order one."""
    torch.manual_seed(3)
    model = EncoderDecoder(dataclasses.replace(shape, **changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def starts(tokens: Tensor, *places: int) -> Tensor:
    """decoder_starts_bt of rows that are one text each."""
    return torch.tensor(places)[:, None].expand(tokens.shape).contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Softmax attention written out, of [T, C] and [S, C], with two heads."""
    outputs = []
    for q_h, k_h, v_h in zip(q.chunk(2, -1), k.chunk(2, -1), v.chunk(2, -1), strict=True):
        scores = q_h @ k_h.T / q_h.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
        outputs.append(scores.softmax(-1) @ v_h)
    return torch.cat(outputs, -1)


def plain_forward(model: EncoderDecoder, ids: Tensor, start: int) -> Tensor:
    """Logits [T - start, V] of one text, ids [T], the encoder and the decoder each given its own tokens alone."""
    memory = model.wte(ids[: start + 1]) + model.wpe(torch.arange(start + 1))
    for block in model.encoder:
        q, k, v = block.attn.c_attn(block.ln_1(memory)).chunk(3, -1)
        memory = memory + block.attn.c_proj(attend(q, k, v, causal=False))
        memory = memory + block.mlp(block.ln_2(memory))
    memory = model.encoder_ln_f(memory)
    x = model.wte(ids[start:]) + model.wpe(torch.arange(start, len(ids)))
    for block in model.h:
        q, k, v = block.attn.c_attn(block.ln_1(x)).chunk(3, -1)
        x = x + block.attn.c_proj(attend(q, k, v, causal=True))
        cross = block.crossattention
        k, v = cross.c_attn(memory).chunk(2, -1)
        x = x + cross.c_proj(attend(cross.q_attn(block.ln_cross_attn(x)), k, v, causal=False))
        x = x + block.mlp(block.ln_2(x))
    return F.linear(model.ln_f(x), model.wte.weight)[:, : model.config.real_vocab_size]


@pytest.mark.parametrize("start", [0, 4, 11])
@torch.no_grad()
def test_logits_of_rows_are_those_of_attention_written_out(start: int) -> None:
    model, tokens = built(), random_tokens(3, 12)
    found = model(tokens, decoder_starts_bt=starts(tokens, start, 7, 2))[0, start:, : SMALL.real_vocab_size]
    assert torch.allclose(found, plain_forward(model, tokens[0], start), atol=1e-5)


@torch.no_grad()
def test_decoder_agrees_with_transformers_cross_attention() -> None:
    transformers = pytest.importorskip("transformers")
    model, tokens, start = built(), random_tokens(1, 12), 5
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **{"vocab_size": SMALL.vocab_size, "n_positions": 16, "n_embd": 32, "n_layer": 3, "n_head": 2},
            add_cross_attention=True,
        )
    ).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("encoder"):
            is_conv = tensor.dim() == 2 and any(part in name for part in ("attn.", "attention.", "mlp."))
            state[f"transformer.{name}"] = tensor.T if is_conv else tensor
    theirs.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    memory = []
    model.encoder_ln_f.register_forward_hook(lambda module, inputs, output: memory.append(output))
    ours = model(tokens, decoder_starts_bt=starts(tokens, start))[0, start:, : SMALL.real_vocab_size]
    answer = theirs(
        tokens[:, start:],
        position_ids=torch.arange(start, 12)[None],
        encoder_hidden_states=memory[0][:, : start + 1],
    ).logits[0, :, : SMALL.real_vocab_size]
    assert torch.allclose(ours, answer, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_documents_in_a_row_give_what_each_gives_alone(shape: str) -> None:
    model, tokens = built(SHAPES[shape]), random_tokens(2, 12)
    lengths, cuts = [5, 7, 12], [2, 6, 3]  # the last document is the second row
    layout = document_layout(np.array(lengths), 12)
    row = torch.tensor([2] * 5 + [5 + 6] * 7)
    together = model(tokens, documents=layout, decoder_starts_bt=torch.stack((row, torch.full((12,), 3))))
    alone = zip((tokens[0, :5], tokens[0, 5:], tokens[1]), cuts, strict=True)
    parts = [model(ids[None], decoder_starts_bt=starts(ids[None], cut))[0, cut:] for ids, cut in alone]
    found = together[0, 2:5], together[0, 11:], together[1, 3:]
    for part, own in zip(parts, found, strict=True):
        assert torch.allclose(part[:, : SMALL.real_vocab_size], own[:, : SMALL.real_vocab_size], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_decoder_sees_the_whole_prefix_and_no_later_token(shape: str) -> None:
    model, tokens = built(SHAPES[shape]), random_tokens(1, 10)
    cut = starts(tokens, 4)

    def logits(changed: int) -> Tensor:
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % SMALL.real_vocab_size
        return torch.as_tensor(model(other, decoder_starts_bt=cut))[0, :, : SMALL.real_vocab_size]

    base = model(tokens, decoder_starts_bt=cut)[0, :, : SMALL.real_vocab_size]
    for changed in range(10):
        differs = [not torch.equal(a, b) for a, b in zip(base[4:], logits(changed)[4:], strict=True)]
        assert differs == [changed <= max(place, 4) for place in range(4, 10)]


@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_count_and_flops_are_those_of_the_built_model(shape: str) -> None:
    config = SHAPES[shape]
    model = built(config)
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    lookups = model.wte.weight.numel() if not config.tied_head else 0
    positions = model.wpe.weight.numel() if config.positions == "learned" else 0
    padding = (config.vocab_size - config.real_vocab_size) * (config.n_embd + config.head_bias)
    n = parameter_count(config) - lookups - positions - padding
    attention = 12 * 32 * 16 * (config.encoder_layers + 2 * 3) / 4
    assert model_flops_per_token(config, 16) == 6 * n / 2 + attention


@pytest.mark.parametrize("mode", ["full", "every_2", "selective", "full_cpu"])
def test_recomputed_gradients_are_the_same_to_the_last_bit(mode: str) -> None:
    tokens = random_tokens(2, 13)
    cut = starts(tokens[:, 1:], 4, 0)

    def trained(how: str) -> dict[str, Tensor]:
        model = built(dropout=0.1, activation_checkpointing=how).train()
        torch.manual_seed(1)
        model(tokens[:, :-1], tokens[:, 1:], (torch.arange(12) >= cut).float(), decoder_starts_bt=cut).backward()
        return gradients(model)

    kept, made_again = trained("none"), trained(mode)
    assert kept.keys() == made_again.keys() and len(kept) == len(list(built().parameters()))
    assert all(torch.equal(kept[name], made_again[name]) for name in kept)


def test_loss_is_the_sum_of_weighted_cross_entropy_of_the_logits() -> None:
    model, tokens = built(), random_tokens(2, 13)
    cut, weights = starts(tokens[:, 1:], 4, 0), torch.rand(2, 12)
    logits = model(tokens[:, :-1], decoder_starts_bt=cut)
    wanted = (
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none") * weights.flatten()
    ).sum()
    assert model(tokens[:, :-1], tokens[:, 1:], weights, decoder_starts_bt=cut).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("length", [1, 6, 16])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_cached_continuation_has_the_tokens_of_whole_passes_and_the_encoder_reads_once(shape: str, length: int) -> None:
    model, prompt = built(SHAPES[shape]), random_tokens(1, length)[0].tolist()
    ids = list(prompt)
    while len(ids) <= SMALL.max_seq_len:
        tokens = torch.tensor([ids])
        ids.append(int(model(tokens, last_only=True, decoder_starts_bt=starts(tokens, length - 1))[0, -1].argmax()))
    widths: dict[str, list[int]] = {"encoder": [], "decoder": []}
    model.encoder[0].register_forward_hook(lambda _, inputs, __: widths["encoder"].append(inputs[0].shape[1]))
    model.h[0].register_forward_hook(lambda _, inputs, __: widths["decoder"].append(inputs[0].shape[1]))
    assert continue_greedily(model, prompt, 100, eot_id=SMALL.real_vocab_size) == ids[length:]
    assert widths == {"encoder": [length], "decoder": [1] * (17 - length)}


@torch.no_grad()
def test_cached_logits_are_those_of_the_whole_text() -> None:
    model, tokens = built(MODERN), random_tokens(1, 12)
    cache = DecoderCache(MODERN, start=4, capacity=8)
    whole = model(tokens, decoder_starts_bt=starts(tokens, 4))[0, 4:, : SMALL.real_vocab_size]
    parts = [model(tokens[:, :5], cache=cache), model(tokens[:, 5:6], cache=cache), model(tokens[:, 6:], cache=cache)]
    assert torch.allclose(torch.cat(parts, 1)[0, :, : SMALL.real_vocab_size], whole, atol=1e-5)


@torch.no_grad()
def test_continue_greedily_takes_the_likeliest_token_each_time_within_the_longest_length() -> None:
    model, prompt = built(), random_tokens(1, 6)[0].tolist()
    ids = list(prompt)
    while len(ids) <= SMALL.max_seq_len:
        ids.append(int(plain_forward(model, torch.tensor(ids), 5)[-1].argmax()))
    wanted = ids[6:]
    assert continue_greedily(model.train(), prompt, 100, eot_id=SMALL.real_vocab_size) == wanted
    assert model.training
    assert continue_greedily(model, prompt, 3, eot_id=SMALL.real_vocab_size) == wanted[:3]
    assert continue_greedily(model, prompt, 100, eot_id=wanted[4]) == wanted[: wanted.index(wanted[4])]


def test_build_model_takes_the_class_of_the_arch() -> None:
    assert type(build_model(SMALL)) is GPT
    assert type(build_model(SHAPE)) is EncoderDecoder


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (lambda: built()(random_tokens(1, 4)), "must be told where its texts are cut"),
        (
            lambda: GPT(SMALL)(random_tokens(1, 4), decoder_starts_bt=starts(random_tokens(1, 4), 1)),
            "a decoder's texts are not cut",
        ),
        (
            lambda: built()(random_tokens(1, 4), cache=KeyValueCache(SHAPE, 1, 8)),
            "be given a cache for one that its encoder reads",
        ),
        (lambda: dataclasses.replace(SHAPE, parallel_block=True), "model.parallel_block is true"),
        (lambda: dataclasses.replace(SHAPE, n_classes=3), "a classifier is a decoder"),
        (lambda: dataclasses.replace(SHAPE, n_encoder_layer=0), "model.n_encoder_layer is 0"),
        (lambda: dataclasses.replace(SMALL, n_encoder_layer=2), "model.n_encoder_layer is 2"),
        (lambda: dataclasses.replace(SMALL, arch="encoder"), "model.arch is 'encoder'"),
        (lambda: continue_greedily(built(), [1] * 17, 1, eot_id=0), "the prompt has 17 tokens"),
        (lambda: continue_greedily(built(), [100], 1, eot_id=0), "token id 100"),
    ],
)
def test_what_cannot_be_is_refused(run: Callable[[], object], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        run()
