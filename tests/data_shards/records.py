"""Small sources of records for fine-tuning, and what a dataset holds of them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_shards.dataset import Dataset
from data_shards.examples import example_ends
from data_shards.prepare import RunUnits, prepare, run_units_serially
from data_shards.settings import DataSettings, resolve_paths
from data_shards.shard_view import ShardView

COMPLETION = {"prompt": "in", "completion": "out"}


def reversal(number: int) -> dict[str, str]:
    """A word made of a number, and the word reversed."""
    word = "".join("abcdefghij"[int(digit)] for digit in str(number))
    return {"in": f"reverse {word}:", "out": f" {word[::-1]}"}


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def task_settings(base: Path, task: Mapping[str, Any], **changes: Any) -> DataSettings:
    """Records are the lines of base/records/*.jsonl."""
    given = {
        "sources": [{"path": "records/*.jsonl", "task": dict(task)}],
        "tokenizer": {"train": "bpe", "vocab_size": 300},
        "val_fraction": 0.2,
        "unit_bytes": 4000,
        "block_tokens": 256,
        **changes,
    }
    return resolve_paths(DataSettings.model_validate(given), base)


def prepare_records(
    base: Path,
    dir: Path,
    task: Mapping[str, Any] = COMPLETION,
    *,
    seq_len: int = 32,
    run_units: RunUnits = run_units_serially,
    **changes: Any,
) -> Dataset:
    settings = task_settings(base, task, **changes)
    return prepare(settings, dir=dir, min_val_tokens=seq_len + 1, run_units=run_units)


def stored_examples(dataset: Dataset, split: str) -> Iterator[np.ndarray]:
    """Each example of a split as stored, loss bits and all, without filling; uint32."""
    for shard in dataset.split(split):
        view = ShardView(dataset, shard)
        stored, starts = view.stored(0, shard.tokens), view.document_starts()
        for start, end in zip(starts.tolist(), example_ends(stored, starts).tolist(), strict=True):
            yield stored[start:end]
