"""How large a run of the benchmark is, and where it works."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ROOT

DEFAULT_FOLDER = ROOT / "build/bench-train"
DEFAULT_PEERS_PYTHON = ROOT / ".venv-train-peers/bin/python"
SEED = 1337


@dataclass(frozen=True)
class Plan:
    """Sizes, repetitions and places.

    sequences: of an optimizer step over all ranks. warm_steps: are not timed. check_steps: of the runs whose losses are
    compared before anything is timed. start_sequences: the same for starts,
    so few that the first step is short. memory_layers, memory_width: of the model whose bytes are counted.
    """

    folder: Path
    peers_python: str
    repetitions: int = 5
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    seq_len: int = 256
    vocab_size: int = 16_384
    sequences: int = 4
    steps: int = 60
    warm_steps: int = 10
    check_steps: int = 12
    start_sequences: int = 2
    memory_shape: Mapping[str, int] = field(
        default_factory=lambda: {"vocab_size": 16_384, "n_layer": 7, "n_head": 8, "n_embd": 512, "max_seq_len": 32}
    )
    memory_ranks: tuple[int, ...] = (1, 2, 4)
    tolerance: float = 1e-4

    @property
    def cores(self) -> list[int]:
        """The last two cores, the very last one first: the first of a machine serves more interrupts."""
        return sorted(os.sched_getaffinity(0))[-2:][::-1]

    @property
    def shape(self) -> dict[str, Any]:
        """The run file's `model` section. GELU is the exact one, which nanoGPT has, and torch has faster on a CPU."""
        sizes = {"n_layer": self.n_layer, "n_head": self.n_head, "n_embd": self.n_embd, "max_seq_len": self.seq_len}
        return {"preset": "gpt2-tiny", **sizes, "dropout": 0.0, "activation": "gelu"}


def full(folder: Path, peers_python: str) -> Plan:
    """What the published figures come from."""
    return Plan(folder, peers_python)


def quick(folder: Path, peers_python: str) -> Plan:
    """The same comparisons of a tiny model, once each. Its figures say nothing but that all arms run."""
    return Plan(
        folder,
        peers_python,
        repetitions=1,
        n_layer=2,
        n_head=2,
        n_embd=64,
        seq_len=64,
        vocab_size=1024,
        steps=12,
        warm_steps=4,
        check_steps=6,
        memory_shape={"vocab_size": 1024, "n_layer": 2, "n_head": 4, "n_embd": 128, "max_seq_len": 32},
        memory_ranks=(1, 2),
    )
