"""What a model costs: parameters, and floating-point operations per trained token. Standard library only."""

from __future__ import annotations

from model.config import GPTConfig


def parameter_count(config: GPTConfig) -> int:
    """All parameters of `GPT(config)`, the tied embedding once, with the rows that only pad the vocabulary."""
    return (config.vocab_size + config.max_seq_len) * config.n_embd + _body_parameters(config)


def model_flops_per_token(config: GPTConfig, seq_len: int) -> float:
    """FLOPs of the forward and backward pass per token: 6 N + 12 L C T (Chowdhery et al. 2022, PaLM, appendix B).

    N counts the parameters that multiply every token: the blocks, the last norm, and the embedding as the output
    layer; not the position embedding, nor the embedding as a look-up, nor the rows that pad the vocabulary. Attention
    counts all T positions for each token, as in that paper, though half are masked. What is computed a second time
    for activation checkpointing is not counted: utilisation speaks of the model, not of how it is run.
    """
    n = _body_parameters(config) + config.real_vocab_size * config.n_embd
    return 6.0 * n + 12.0 * config.n_layer * config.n_embd * seq_len


def _body_parameters(config: GPTConfig) -> int:
    """The blocks and the last norm: per block 12 C^2 of matrices, 9 C of their biases, 4 C of two norms."""
    c = config.n_embd
    return config.n_layer * (12 * c * c + 13 * c) + 2 * c
