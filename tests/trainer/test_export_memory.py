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

# A first model on the meta device makes torch import 70 MB. The high-water mark of resident memory, set back before the
# export; maps of files count in it.
SCRIPT = """
import gc, json, sys
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
before = kib("VmRSS")
export_trained(trained, Path(sys.argv[2]))
print(json.dumps({"grown_bytes": 1024 * (kib("VmHWM") - before)}))
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
    grown = json.loads(done.stdout.splitlines()[-1])["grown_bytes"]
    assert (tmp_path / "export/model.safetensors").stat().st_size > 0.99 * model_bytes
    assert model_bytes > 50 * largest
    # The parameter, the map that it is read from, a part of it turned around, and some MB that are there once.
    assert grown < 2 * largest + 12 * 2**20 < model_bytes / 6
    trained = open_trained(tmp_path / "runs/wide")
    assert all(torch.equal(value, weights[name]) for name, value in trained.parameters())
