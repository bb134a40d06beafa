"""Journals as a training writes them, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monitoring.journal import FileJournal, Record, attempt_path

TOKENS_PER_STEP = 2048
START_TIME = 1_700_000_000.0


def start(attempt: int = 1, resumed_step: int = 0, **changes: Any) -> Record:
    """A start event; `changes` replace its fields."""
    record: Record = {
        "event": "start",
        "attempt": attempt,
        "time": START_TIME + 1000 * attempt,
        "run_id": "20250101-0123456789ab",
        "name": "demo",
        "world_size": 2,
        "max_steps": 10,
        "max_tokens": 10 * TOKENS_PER_STEP,
        "tokens_per_step": TOKENS_PER_STEP,
        "resumed_step": resumed_step,
        "params": {"train.lr": 0.001, "model.preset": "gpt2-tiny", "data.sources": ["a.txt"]},
        "tags": {"headrace.git_commit": "abc", "headrace.dataset": "d41d8"},
        "run_file": "name: demo\n",
    }
    return record | changes


def dataset_facts(split: str = "train") -> Record:
    """What a start event tells of one split of a dataset."""
    return {
        **{"name": f"mill/{split}", "context": "training" if split == "train" else "validation"},
        **{"fingerprint": "f" * 64, "address": "/data/mill", "dtype": "uint16", "vocab_size": 512},
        **{"shards": 3, "documents": 40, "tokens": 9000, "bytes": 20_000, "tokens_by_source": {"a.txt": 9000}},
    }


def step(number: int, attempt: int = 1, **changes: Any) -> Record:
    """A step record with ten metrics; its time differs between attempts, as it does in life."""
    loss = 9.0 - 0.01 * number
    record: Record = {
        "step": number,
        "attempt": attempt,
        "time": START_TIME + 1000 * attempt + number,
        "loss": loss,
        "loss_hex": loss.hex(),
        "sequence_hash": f"{number:013x}abc",
        "lr": 1e-3,
        "grad_norm": 1.5,
        "tokens": number * TOKENS_PER_STEP,
        "tokens_per_second": 3000.0 + number,
        "mfu": 0.4,
        "memory_bytes": 123_456_789,
        "data_wait_seconds": 0.01,
        "step_seconds": 0.5,
    }
    return record | changes


def evaluation(number: int, val_loss: float, attempt: int = 1, **changes: Any) -> Record:
    """An eval event."""
    record: Record = {
        "event": "eval",
        "attempt": attempt,
        "time": START_TIME + 1000 * attempt + number + 0.5,
        "step": number,
        "tokens": number * TOKENS_PER_STEP,
        "val_loss": val_loss,
        "unigram_loss": 7.0,
        "final": False,
        "seconds": 0.25,
    }
    return record | changes


def end(number: int, attempt: int = 1, status: str = "finished") -> Record:
    """An end event."""
    time = START_TIME + 1000 * attempt + number + 0.75
    tokens = number * TOKENS_PER_STEP
    return {"event": "end", "attempt": attempt, "time": time, "status": status, "step": number, "tokens": tokens}


def model_event(out_dir: Path, number: int, column: str = "prompt") -> Record:
    """The event of a model that was exported to out_dir/model."""
    common = {"attempt": 1, "time": START_TIME + 2000, "step": number, "checkpoint": f"step-{number:08d}"}
    return {"event": "model", "path": str(out_dir / "model"), "texts": [column], **common}


def write_journal(out_dir: Path, *records: Record) -> None:
    """Appends each record to the file of its attempt."""
    for attempt in sorted({record["attempt"] for record in records}):
        journal = FileJournal(attempt_path(out_dir, attempt))
        for record in records:
            if record["attempt"] == attempt:
                journal.write(record)
        journal.close()
