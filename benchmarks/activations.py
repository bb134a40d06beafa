"""What each mode of activation checkpointing costs in memory and time: one GPT, forward and backward, each mode in a
process of its own.

`python -m benchmarks.activations` prints the table and writes it to RESULTS.md and results/activations.json. On a
machine with a GPU it measures the GPU's memory, else that of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.page import put_section, table
from model.config import GPTConfig
from model.gpt import GPT

MODES = ("none", "selective", "every_2", "full", "full_cpu")
ROWS, SEQ_LEN, VOCABULARY = 4, 256, 4096
SHAPE: dict[str, Any] = {"n_layer": 4, "n_head": 4, "n_embd": 256, "max_seq_len": SEQ_LEN, "dropout": 0.1}
HERE = Path(__file__).parent


def status_bytes(field: str) -> int:
    """A number of /proc/self/status, such as VmRSS, or VmHWM, the highest since `forget_peak`."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class Memory:
    """Bytes in use now, and at most since the start of a measurement."""

    def __init__(self, device: str) -> None:
        self.is_gpu = device == "cuda"

    def start(self) -> None:
        """Forget the peak so far."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def now(self) -> int:
        """Bytes in use."""
        return torch.cuda.memory_allocated() if self.is_gpu else status_bytes("VmRSS")

    def peak(self) -> int:
        """The most bytes in use since `start`."""
        return torch.cuda.max_memory_allocated() if self.is_gpu else status_bytes("VmHWM")


def measure(mode: str, repetitions: int) -> dict[str, Any]:
    """Median seconds of a forward and backward pass, and MB above what weights and gradients take, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=VOCABULARY, real_vocab_size=VOCABULARY, activation_checkpointing=mode, **SHAPE)
    model = GPT(config).to(device)
    tokens, labels = torch.randint(VOCABULARY, (2, ROWS, SEQ_LEN), device=device)
    memory, seconds, kept, peaks = Memory(device), [], [], []
    for repetition in range(repetitions + 1):  # the first makes the gradients
        model.zero_grad(set_to_none=False)
        memory.start()
        before = memory.now()
        began = time.perf_counter()
        loss: Tensor = model(tokens, labels)
        after_forward = memory.now()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        if repetition:
            seconds.append(time.perf_counter() - began)
            kept.append(after_forward - before)
            peaks.append(memory.peak() - before)
    megabytes = {"kept_mb": statistics.median(kept) / 1e6, "peak_mb": statistics.median(peaks) / 1e6}
    return {"mode": mode, "seconds": statistics.median(seconds), **megabytes, "loss_hex": loss.item().hex()}


def in_own_process(mode: str, repetitions: int) -> dict[str, Any]:
    """`measure` there, with memory given back to the system as soon as it is free."""
    command = [sys.executable, "-m", "benchmarks.activations", "--one", mode, "--repetitions", str(repetitions)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def section(found: list[dict[str, Any]], note: str) -> str:
    """The section of RESULTS.md, without its markers."""
    base = found[0]
    columns = [
        "mode",
        "kept after the forward pass, MB",
        "peak, MB",
        "peak / none",
        "seconds",
        "seconds / none",
        "loss",
    ]
    rows = [
        [
            one["mode"],
            f"{one['kept_mb']:.0f}",
            f"{one['peak_mb']:.0f}",
            f"{one['peak_mb'] / base['peak_mb']:.2f}",
            f"{one['seconds']:.2f}",
            f"{one['seconds'] / base['seconds']:.2f}",
            "the same bits" if one["loss_hex"] == base["loss_hex"] else "another",
        ]
        for one in found
    ]
    head = (
        f"{SHAPE['n_layer']} blocks of width {SHAPE['n_embd']}, {ROWS} x {SEQ_LEN} tokens, dropout {SHAPE['dropout']}, "
        f"fp32; forward and backward, medians; memory is what a step takes above weights and gradients. {note}"
    )
    title = "## Activation checkpointing: `python -m benchmarks.activations`"
    return "\n".join([title, "", head.strip(), "", table(columns, rows)])


def main() -> None:
    """Measure the modes in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--one", choices=MODES, help="measure this mode in this process")
    parser.add_argument("--note", default="", help="a sentence on the machine for the table")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.repetitions)))  # noqa: T201
        return
    found = [in_own_process(mode, options.repetitions) for mode in MODES]
    text = section(found, options.note)
    print(text)  # noqa: T201
    (HERE / "results/activations.json").write_text(json.dumps({"shape": SHAPE, "found": found}, indent=1) + "\n")
    page = HERE / "RESULTS.md"
    page.write_text(put_section(page.read_text(), text, "activations"))


if __name__ == "__main__":
    main()
