"""A run that nobody trained: a dataset of two sources, and random weights as its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from data_shards.dataset import Dataset
from data_shards.prepare import prepare, run_units_serially
from model.config import GPTConfig, pad_vocab
from model.gpt import GPT
from monitoring.runs import create_run_folder
from tests.data_shards.corpora import write_lines
from trainer.checkpoint.fragments import Fragment, Snapshot
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import SaveTask, save_checkpoint
from trainer.config import RunConfig, dump_run_file, load_run_file

T = 16


def make_run(folder: Path, steps: tuple[int, ...] = (10,), seq_len: int = T, **data: Any) -> Path:
    """The run's folder; the weights of step s are those of `random_model(vocab_size, s)`, with a head for classes
    where the data has some."""
    config, dataset = _prepared(folder, seq_len, data)
    out_dir = Path(config.out_dir)
    create_run_folder(out_dir, "run-1", "mill", dump_run_file(config))
    for step in steps:
        _save(
            out_dir,
            random_model(dataset.vocab_size, step, seq_len, len(dataset.classes) or None),
            step,
            dataset.fingerprint,
        )
    return out_dir


def random_model(vocab_size: int, seed: int, seq_len: int = T, n_classes: int | None = None) -> GPT:
    """A small GPT in evaluation mode, whose logits are far enough apart for text that varies."""
    torch.manual_seed(seed)
    model = GPT(
        GPTConfig(
            vocab_size=pad_vocab(vocab_size),
            real_vocab_size=vocab_size,
            n_layer=2,
            n_head=2,
            n_embd=32,
            max_seq_len=seq_len,
            n_classes=n_classes,
        )
    )
    with torch.no_grad():
        model.wte.weight.mul_(4.0)
    return model.eval()


def _prepared(folder: Path, seq_len: int, data: dict[str, Any]) -> tuple[RunConfig, Dataset]:
    write_lines(folder / "corpus/a.txt", range(60))
    write_lines(folder / "corpus/b.txt", range(100, 220))
    document = {
        "name": "mill",
        "data": {
            "sources": [{"path": f"corpus/{name}.txt", "document": "line"} for name in "ab"],
            "tokenizer": {"train": "bpe", "vocab_size": 400},
            "val_fraction": 0.3,
            **data,
        },
        "model": {"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": seq_len},
        "train": {"max_steps": 10, "global_batch_size": 4, "lr": 1e-3},
    }
    file = folder / "mill.yaml"
    file.write_text(yaml.safe_dump(document))
    config = load_run_file(file)
    dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=seq_len + 1, run_units=run_units_serially)
    return config, dataset


def _save(out_dir: Path, model: GPT, step: int, fingerprint: str) -> None:
    header = Header(
        run_id="run-1",
        attempt=1,
        step=step,
        tokens=step * 4 * T,
        world_size=1,
        zero_stage=0,
        precision="fp32",
        loader={"version": 1, "consumed": step * 4},
        settings={"seed": 1337, "model": model.config.to_dict(), "dataset": fingerprint},
        rng="none",
    )
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    zeros = {name: torch.zeros(value.numel()) for name, value in values.items()}
    snapshot = Snapshot(
        shapes={name: tuple(value.shape) for name, value in values.items()},
        fragments=[
            Fragment(name, 0, value.flatten(), zeros[name], zeros[name], step=float(step))
            for name, value in values.items()
        ],
        frozen={},
        buffers={},
        rank_tensors={},
        loss_scale=None,
    )
    save_checkpoint(SaveTask(out_dir, header, snapshot, rank=0))
