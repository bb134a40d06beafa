"""Starts `headrace` as a user does, in processes of its own, and looks at what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.02

WORDS = "the river turns a wheel and water runs down race to mill where stone grinds grain".split()  # noqa: SIM905


def write_corpus(folder: Path, files: int = 5) -> None:
    """Uneven text files of a small vocabulary; the same ones each time."""
    folder.mkdir(parents=True, exist_ok=True)
    state = 1
    for number in range(files):
        words = []
        for _ in range(600 * (number + 1)):
            state = (state * 1103515245 + 12345) % 2**31
            words.append(WORDS[(state >> 16) % len(WORDS)])
        lines = [" ".join(words[i : i + 12]) for i in range(0, len(words), 12)]
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n")


def run_file(folder: Path, name: str, **changes: Any) -> Path:
    """A tiny run on two workers over a dataset that all runs of the folder share."""
    document: dict[str, Any] = {
        "name": name,
        "out_dir": str(folder / "runs" / name),
        "data": {
            "dir": str(folder / "data"),
            "sources": [{"path": "corpus/*.txt", "document": "line"}],
            "tokenizer": {"train": "bpe", "vocab_size": 320},
            "val_fraction": 0.1,
            "unit_bytes": 12_000,
        },
        "model": {"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32, "dropout": 0.1},
        "train": {"max_steps": 60, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3},
        "eval": {"interval": 20, "max_tokens": 1024, "samples": ["the river"], "sample_tokens": 8},
        "checkpoint": {"interval": 5},
        "cluster": {"workers": 2},
    }
    for dotted, value in changes.items():
        section, _, field = dotted.partition("__")
        document[section] = {**document[section], field: value} if field else value
    if not (folder / "corpus").exists():
        write_corpus(folder / "corpus")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def environment() -> dict[str, str]:
    """Without what an outer Ray or launcher may have left."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "RANK", "WORLD_SIZE"))}
    return {**kept, "DS_ACCELERATOR": "cpu"}


def command(*words: str | Path) -> list[str]:
    """`headrace WORDS` with this interpreter."""
    return [sys.executable, "-m", "cluster.cli", *map(str, words)]


def headrace(*words: str | Path, deadline_seconds: float = 200) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*words), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=deadline_seconds
    )


@contextmanager
def started(*words: str | Path, log: Path) -> Any:
    """A command that is running; killed at the end if it still is."""
    with log.open("wb") as file:
        process = subprocess.Popen(command(*words), cwd=ROOT, env=environment(), stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], Any], what: str, deadline_seconds: float = 120) -> Any:
    """The first true value of the condition; fails the test at the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {deadline_seconds} s: {what}")


def records(out_dir: Path) -> list[dict[str, Any]]:
    """All whole lines of the journal, attempt by attempt."""
    lines = [line for path in sorted((out_dir / "journal").glob("attempt-*.jsonl")) for line in path.open()]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps(out_dir: Path) -> list[dict[str, Any]]:
    """The records of steps, in the order in which they were written."""
    return [record for record in records(out_dir) if "event" not in record]


def newest_step(out_dir: Path) -> int:
    """The highest step in the journal, 0 if there is none."""
    return max((record["step"] for record in steps(out_dir)), default=0)


def events(out_dir: Path, name: str) -> list[dict[str, Any]]:
    """The event records of that name."""
    return [record for record in records(out_dir) if record.get("event") == name]


def pids_titled(title: str) -> list[int]:
    """Processes whose title, as `ps` shows it, begins so."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            shown = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if shown.startswith(title):
            found.append(int(path.name))
    return found
