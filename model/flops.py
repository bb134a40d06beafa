"""What a model costs: parameters, and floating-point operations per trained token. Standard library only."""

from __future__ import annotations

from model.config import GPTConfig


def parameter_count(config: GPTConfig) -> int:
    """All parameters of `GPT(config)`, a tied embedding once, with the rows that only pad the vocabulary."""
    embedding = config.vocab_size * config.n_embd
    positions = config.max_seq_len * config.n_embd if config.positions == "learned" else 0
    head = (0 if config.tied_head else embedding) + (config.vocab_size if config.head_bias else 0)
    if config.n_classes is not None:
        head = config.n_classes * config.n_embd
    return embedding + positions + head + _body_parameters(config) + _encoder_parameters(config)


def model_flops_per_token(config: GPTConfig, seq_len: int) -> float:
    """FLOPs of the forward and backward pass per token: 6 N + 12 L C T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the parameters that multiply every token: the blocks, the last norm, and the output layer; not the
    position embedding, nor the embedding as a look-up, nor the rows that pad the vocabulary. C are the channels of all
    heads. Attention counts all T positions for each token, as in that paper, though half are masked. What is computed
    a second time for activation checkpointing is not counted: utilisation speaks of the model, not of how it is run.
    For the same reason an encoder-decoder's tokens count as one half the encoder's and one half the decoder's, each
    with T / 2 positions to attend to, the decoder's twice.
    """
    outputs = config.real_vocab_size * (config.n_embd + config.head_bias)
    if config.n_classes is not None:
        outputs = config.n_classes * config.n_embd
    attention = 12.0 * config.n_head * config.head_width * seq_len
    if config.arch == "encoder_decoder":
        n = (_body_parameters(config) + _encoder_parameters(config) + outputs) / 2
        return 6.0 * n + attention * (config.encoder_layers + 2 * config.n_layer) / 4
    return 6.0 * (_body_parameters(config) + outputs) + attention * config.n_layer


def _body_parameters(config: GPTConfig) -> int:
    """The blocks and the last norm; of an encoder-decoder the decoder's."""
    norms = config.n_layer * (1 if config.parallel_block else 2) + (config.norm_place == "before")
    blocks = config.n_layer * (_attention_parameters(config) + _mlp_parameters(config))
    if config.arch == "encoder_decoder":
        norms += config.n_layer
        blocks += config.n_layer * _projection_parameters(config)
    return blocks + norms * _norm_parameters(config, config.n_embd)


def _encoder_parameters(config: GPTConfig) -> int:
    """An encoder's blocks and last norm; 0 where there is none."""
    if config.arch == "decoder":
        return 0
    norms = 2 * config.encoder_layers + (config.norm_place == "before")
    blocks = config.encoder_layers * (_attention_parameters(config) + _mlp_parameters(config))
    return blocks + norms * _norm_parameters(config, config.n_embd)


def _attention_parameters(config: GPTConfig) -> int:
    return _projection_parameters(config) + (2 * config.head_width if config.qk_norm else 0)


def _projection_parameters(config: GPTConfig) -> int:
    """Of attention to itself or to an encoder: what makes queries, keys, values and the output."""
    inner, width = config.n_head * config.head_width, (config.n_head + 2 * config.kv_heads) * config.head_width
    biases = width * config.qkv_bias + config.n_embd * config.attention_out_bias
    return config.n_embd * (width + inner) + biases


def _mlp_parameters(config: GPTConfig) -> int:
    into = 2 if config.activation == "swiglu" else 1
    matrices = (into + 1) * config.n_embd * config.mlp_width
    return matrices + config.mlp_bias * (into * config.mlp_width + config.n_embd)


def _norm_parameters(config: GPTConfig, width: int) -> int:
    return (2 if config.norm == "layer" else 1) * width
