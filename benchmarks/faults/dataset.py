"""The demo's dataset, and the same tokens as arrays for the peers."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.harness.environment import ROOT
from model.settings import ModelSettings, resolve

DEMO = ROOT / "recipes/demo.yaml"
PREPARE_SECONDS = 300.0


def demo_dataset(work: Path) -> Path:
    """The demo's dataset, prepared once per work folder."""
    folder = work / "demo-data"
    if not (folder / "dataset.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        words = ["prepare", str(DEMO), "--set", f"data.dir={folder}", "--set", f"out_dir={work / 'prepare'}"]
        command = [sys.executable, "-m", "cluster.cli", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PREPARE_SECONDS)
        if done.returncode:
            raise RuntimeError(f"headrace prepare: exit status {done.returncode}: {done.stderr[-2000:]}")
    return folder


def demo_model(dataset: Path, **changes: Any) -> dict[str, Any]:
    """The shape of the demo's model for the dataset's vocabulary, with changes, as plain values."""
    section = {**yaml.safe_load(DEMO.read_text())["model"], **changes}
    vocab_size = json.loads((dataset / "dataset.json").read_text())["vocab_size"]
    return resolve(ModelSettings(**section), vocab_size).to_dict()


def demo_settings() -> dict[str, Any]:
    """The demo's run file."""
    found: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    return found


def export_arrays(dataset: Path, to: Path) -> None:
    """Each training shard's tokens as `train-NNNNN.npy`, which the peers map."""
    to.mkdir(parents=True, exist_ok=True)
    for shard in sorted(dataset.glob("train-*.tar")):
        np.save(to / f"{shard.stem}.npy", shard_tokens(shard))


def shard_tokens(shard: Path) -> np.ndarray:
    """All tokens of a shard, one dimension."""
    with tarfile.open(shard) as tar:
        blocks = [_array(tar, member) for member in tar if member.name.endswith(".tokens.npy")]
    return np.concatenate(blocks)


def _array(tar: tarfile.TarFile, member: tarfile.TarInfo) -> np.ndarray:
    file = tar.extractfile(member)
    assert file is not None
    return np.asarray(np.load(io.BytesIO(file.read())))
