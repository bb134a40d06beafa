"""What the forward and backward pass of a micro-batch keep in memory, operation by operation. Pure functions.

Counted are the tensors that autograd saves for the backward pass (as Korthikanti et al. 2022, section 4, count them,
but of this family's parts, and with attention that keeps no matrix of scores), and what the pass holds beside them
where it holds most. What a kernel takes and gives back within one operation is not counted. The counts are held against
measured ones in tests/trainer/test_plan_activations.py.

Letters: B sequences, T tokens of each, N = B T, C channels, F width inside the MLP, V rows of the output layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import GPTConfig
from model.losses import chunk_rows

FP32_BYTES = 4
DOCUMENT_PADDING = 1.25
"""Most that documents laid out in groups take of what whole rows take (`model.documents`)."""


@dataclass(frozen=True)
class Pass:
    """One micro-batch: B sequences of T tokens in a number format of so many bytes, on a CPU or a GPU.

    separates_documents: whether attention runs on each document by itself.
    """

    rows: int
    seq_len: int
    element_bytes: int
    device: str = "cpu"
    separates_documents: bool = False

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.seq_len


@dataclass(frozen=True)
class Activations:
    """Bytes on the device, beside parameters, gradients and optimizer states.

    saved: what is kept at the forward pass's end; loss: the most while the loss is made; backward: the most as the
    backward pass begins; blocks: the most in the backward pass of each block, first to last; host: of full_cpu on a
    GPU, in the host's memory.
    """

    saved: int
    loss: int
    backward: int
    blocks: tuple[int, ...]
    host: int

    @property
    def peak(self) -> int:
        """The most of all."""
        return max(self.loss, self.backward, *self.blocks)


def activations(config: GPTConfig, part: Pass) -> Activations:
    """What a micro-batch needs at the moments where it may need most."""
    kept = [_kept_bytes(config, part, layer) for layer in range(_blocks(config))]
    stream = part.tokens * config.n_embd * part.element_bytes
    norm = stream + _norm_bytes(config, part) if config.norm_place == "before" else 0
    edges = norm + _outside_bytes(config, part)
    saved = sum(kept) + edges
    head = _output_rows(config) * config.n_embd
    hidden = part.tokens * config.n_embd
    after_loss = saved + FP32_BYTES * (hidden + head)
    is_half = part.element_bytes < FP32_BYTES
    scaled = FP32_BYTES * head + part.element_bytes * (hidden + (head if is_half else 0))
    return Activations(
        saved=saved + stream,
        loss=saved + stream + _loss_bytes(config, part),
        backward=after_loss + scaled,
        blocks=tuple(
            sum(kept[:layer]) + _backward_bytes(config, part, layer) + head * part.element_bytes
            for layer in range(len(kept))
        ),
        host=stream * sum(_on_host(config, part, layer) for layer in range(len(kept))),
    )


def _blocks(config: GPTConfig) -> int:
    encoder = config.encoder_layers if config.arch == "encoder_decoder" else 0
    return config.n_layer + encoder


def _output_rows(config: GPTConfig) -> int:
    return config.vocab_size if config.n_classes is None else config.n_classes


def _on_host(config: GPTConfig, part: Pass, layer: int) -> bool:
    is_moved = config.activation_checkpointing == "full_cpu" and part.device == "cuda"
    return is_moved and config.is_checkpointed(layer)


def _kept_bytes(config: GPTConfig, part: Pass, layer: int) -> int:
    """What of a block is kept between its forward and its backward pass."""
    if not config.is_checkpointed(layer):
        return _block_bytes(config, part)
    stream = part.tokens * config.n_embd * part.element_bytes
    if config.activation_checkpointing == "selective":
        width = 2 * config.n_embd + _first_widths(config) + config.n_head * config.head_width
        scores = _scores_bytes(config, part) // (3 if config.dropout and part.device == "cpu" else 1)
        return stream + part.tokens * part.element_bytes * width + scores
    return 0 if _on_host(config, part, layer) else stream


def _first_widths(config: GPTConfig) -> int:
    """Channels that come out of the products in a block which widen: queries, keys and values, and inside the MLP."""
    into = 2 if config.activation == "swiglu" else 1
    return (config.n_head + 2 * config.kv_heads) * config.head_width + into * config.mlp_width


def _block_bytes(config: GPTConfig, part: Pass) -> int:
    """All that a block saves, its input included."""
    mlp = 4 if config.activation == "swiglu" else 2
    norms = 1 if config.parallel_block else 2
    inner = config.n_head * config.head_width
    widths = config.n_embd * 2 * norms + mlp * config.mlp_width
    if config.dropout:
        widths += 2 * config.n_embd if part.device == "cpu" else 0
    saved = part.tokens * part.element_bytes * (widths + _attention_width(config, part, inner))
    masks = 2 * part.tokens * config.n_embd if config.dropout and part.device != "cpu" else 0
    return int(saved + masks + norms * _norm_bytes(config, part) + _scores_bytes(config, part))


def _attention_width(config: GPTConfig, part: Pass, inner: int) -> float:
    """Channels of queries, keys, values and the output, with what rotating, norming and spreading them add."""
    keys = config.kv_heads * config.head_width
    width: float = inner + 2 * keys
    if config.kv_heads != config.n_head:  # keys and values are copied for each head of queries
        width += 2 * inner
    if part.separates_documents:
        width = (width + inner) * DOCUMENT_PADDING
    if config.qk_norm:
        width += (inner + 2 * keys) + (inner + keys)  # what is normed, and what the norm saves
    if config.arch == "encoder_decoder":  # a norm, queries, the encoder's keys and values, the output
        width += 2 * config.n_embd + 2 * inner + 2 * keys
    return width + inner


def _norm_bytes(config: GPTConfig, part: Pass) -> int:
    """What a norm saves beside its input."""
    if config.norm == "layer":
        return 2 * part.tokens * (part.element_bytes if part.device == "cpu" else FP32_BYTES)
    normed = 0 if part.device == "cuda" else FP32_BYTES + (part.element_bytes if part.element_bytes < FP32_BYTES else 0)
    return part.tokens * (FP32_BYTES + config.n_embd * normed)


def _scores_bytes(config: GPTConfig, part: Pass) -> int:
    """The softmax's normalisers; with dropout on a CPU attention keeps its scores, their mask and their product."""
    heads = part.rows * config.n_head * part.seq_len
    if config.dropout and part.device == "cpu":
        return 3 * heads * part.seq_len * part.element_bytes
    return heads * FP32_BYTES


def _outside_bytes(config: GPTConfig, part: Pass) -> int:
    """Of embeddings and positions."""
    stream = part.tokens * config.n_embd
    dropped = 0
    if config.dropout:
        dropped = stream * (part.element_bytes if part.device == "cpu" else 1)
    turns = part.seq_len * config.rotary_width * FP32_BYTES if config.positions == "rotary" else 0
    return dropped + turns


def _loss_bytes(config: GPTConfig, part: Pass) -> int:
    """Logits of a chunk of rows, their logarithms, and both gradients, which are made with them."""
    vocabulary, channels = _output_rows(config), config.n_embd
    rows = min(part.tokens, chunk_rows(vocabulary, part.device))
    is_half = part.element_bytes < FP32_BYTES
    logits = rows * vocabulary * (part.element_bytes + FP32_BYTES + (part.element_bytes if is_half else 0))
    gradients = FP32_BYTES * channels * (part.tokens + vocabulary)
    products = 2 * rows * channels * FP32_BYTES
    if is_half:
        products = max(products, part.element_bytes * channels * (vocabulary + rows))
    if config.head_bias:
        products = max(products, rows * vocabulary * FP32_BYTES)
    return logits + gradients + products


def _backward_bytes(config: GPTConfig, part: Pass, layer: int) -> int:
    """The most while a block's gradients are made: the block whole, and those of the MLP's widest place."""
    element = part.element_bytes
    whole = _block_bytes(config, part)
    if config.is_checkpointed(layer) and config.activation_checkpointing == "selective":
        whole += part.tokens * config.n_embd * element  # outputs of products are kept that the block itself does not
    inside, weights = part.tokens * config.mlp_width * element, config.mlp_width * config.n_embd * element
    widest = max(inside + weights, 2 * inside) if config.activation == "swiglu" else inside + weights
    return whole + part.tokens * config.n_embd * element + widest
