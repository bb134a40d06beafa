"""A model and a loop of the structure that Karpathy's nanoGPT has, with its names: eager, or compiled as a whole.

Its GELU is the exact one, as all arms here have it; its loss materialises all logits.
"""

import math
from typing import Any

import torch
from common import Blocks, Task, asked, set_rate
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """With weight and bias."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n_embd)), nn.Parameter(torch.zeros(n_embd))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalSelfAttention(nn.Module):
    """By torch's fused kernel."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.n_head, self.n_embd = n_head, n_embd

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to the same."""
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(self.n_embd, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to the same."""
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Attention and MLP, norms before."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.ln_1, self.attn = LayerNorm(n_embd), CausalSelfAttention(n_embd, n_head)
        self.ln_2, self.mlp = LayerNorm(n_embd), MLP(n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to the same."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """The decoder, its head tied to the token embedding."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        n_embd, n_head = shape["n_embd"], shape["n_head"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(shape["vocab_size"], n_embd),
                "wpe": nn.Embedding(shape["max_seq_len"], n_embd),
                "h": nn.ModuleList(Block(n_embd, n_head) for _ in range(shape["n_layer"])),
                "ln_f": LayerNorm(n_embd),
            }
        )
        self.lm_head = nn.Linear(n_embd, shape["vocab_size"], bias=False)
        self.transformer["wte"].weight = self.lm_head.weight
        for name, parameter in self.named_parameters():  # as nanoGPT begins; the task's weights come in their place
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * shape["n_layer"]))

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        parts = self.transformer
        x = parts["wte"](idx) + parts["wpe"](torch.arange(idx.shape[1], device=idx.device))
        for block in parts["h"]:
            x = block(x)
        logits = self.lm_head(parts["ln_f"](x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


def with_weights(shape: dict[str, Any], weights: dict[str, Tensor]) -> NanoGPT:
    """The model with Headrace's weights, whose names are the same within `transformer`."""
    model = NanoGPT(shape)
    given = {f"transformer.{name}": value for name, value in weights.items()}
    model.load_state_dict({**given, "lm_head.weight": weights["wte.weight"]})
    return model


def configure_optimizers(model: nn.Module, task: Task) -> torch.optim.AdamW:
    """Decay on what has two dimensions; fused, as nanoGPT takes it where it can."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": task.optimizer["weight_decay"]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    settings = task.optimizer
    return torch.optim.AdamW(groups, lr=task.rates[0], betas=tuple(settings["betas"]), eps=settings["eps"], fused=True)


def main() -> None:
    """Train on the task."""
    task = asked()
    raw = with_weights(task.model, torch.load(task.weights, weights_only=True))
    optimizer = configure_optimizers(raw, task)
    model: Any = torch.compile(raw) if task.compile else raw
    blocks, stamps = Blocks(task), task.stamps()
    x, y = blocks[0]
    for step, rate in enumerate(task.rates):
        set_rate(optimizer, rate)
        loss = model(x, y)
        x, y = blocks[min(step + 1, task.steps - 1)]  # the next batch while a device computes
        loss.backward()
        torch.nn.utils.clip_grad_norm_(raw.parameters(), task.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stamps.step(loss.item())


if __name__ == "__main__":
    main()
