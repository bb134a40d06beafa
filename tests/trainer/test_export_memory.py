"""What an export holds while it writes a model far larger than its largest parameter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.end_to_end.headrace import ROOT, environment
from tests.trainer.origins import save_weights
from trainer.trained import open_trained

# A first model on the meta device makes torch import 70 MB. Two marks: the high-water mark of resident memory, set back
# before the export, in which maps of files count with what the kernel reads ahead of them; and the most anonymous
# memory of samples taken all the time, which a process cannot be without.
SCRIPT = """
import gc, json, sys, threading
from pathlib import Path
from model.gpt import parameter_shapes
from trainer.trained import export_trained, open_trained
def kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
trained = open_trained(Path(sys.argv[1]))
parameter_shapes(trained.model_config)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before, anonymous = kib("VmRSS"), kib("RssAnon")
samples, over = [], threading.Event()
def sample():
    while not over.wait(0.001):
        samples.append(kib("RssAnon"))
sampler = threading.Thread(target=sample)
sampler.start()
export_trained(trained, Path(sys.argv[2]))
over.set()
sampler.join()
grown = {"all": kib("VmHWM") - before, "anonymous": max(samples) - anonymous, "samples": len(samples)}
print(json.dumps(grown))
"""
MODEL = {"preset": "gpt2-tiny", "n_layer": 18, "n_head": 6, "n_embd": 384, "max_seq_len": 32}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_export_holds_the_largest_parameter_and_not_the_model(tmp_path: Path) -> None:
    weights = save_weights(tmp_path, "wide", {1: 1}, model=MODEL)[1]
    largest = max(value.nbytes for value in weights.values())
    model_bytes = sum(value.nbytes for value in weights.values())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "runs/wide"), str(tmp_path / "export")],
        cwd=ROOT,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "export/model.safetensors").stat().st_size > 0.99 * model_bytes
    assert model_bytes > 50 * largest
    assert grown["samples"] > len(weights)
    # The parameter, a part of it turned around, and some MB that are there once.
    assert 1024 * grown["anonymous"] < 2 * largest + 12 * 2**20
    assert 1024 * grown["all"] < model_bytes / 6
    trained = open_trained(tmp_path / "runs/wide")
    assert all(torch.equal(value, weights[name]) for name, value in trained.parameters())
