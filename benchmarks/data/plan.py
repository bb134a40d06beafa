"""How large a run of the benchmark is, and where it works."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.arms import PEERS, run_script
from benchmarks.data.corpus import Corpus, make_corpus
from benchmarks.data.fetch import fetch_prose, fetch_vocabulary
from benchmarks.harness.environment import ROOT
from data_shards.tokenizer import read_tokenizer

EOT_ID = 50_256  # of GPT-2's vocabulary
MEGA = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Sizes, repetitions and places. `text` are the user's own files; without them text is fetched."""

    folder: Path
    peers_python: str
    text: tuple[Path, ...] = ()
    repetitions: int = 5
    small_bytes: int = 32 * MEGA
    large_bytes: int = 512 * MEGA
    other_bytes: int = 8 * MEGA
    reading_shards: int = 64
    shuffle_shards: int = 6144
    balance_seeds: int = 20

    @property
    def core(self) -> frozenset[int]:
        """The last core: the first one serves more interrupts."""
        return frozenset({max(os.sched_getaffinity(0))})

    def corpus(self, name: str, text_bytes: int, files: Sequence[Path] = ()) -> Corpus:
        """A corpus of the given files, or of prose."""
        chosen = files or self.text or fetch_prose(self.folder)
        return make_corpus(f"{name}-{text_bytes // MEGA}", chosen, text_bytes, self.folder)

    def vocabulary(self) -> Path:
        """A folder with encoder.json and vocab.bpe."""
        return fetch_vocabulary(self.folder)

    def tokenizer(self) -> Path:
        """The same vocabulary as a tokenizer.json."""
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            path.write_bytes(read_tokenizer(self.vocabulary()))
        return path

    def made(self, name: str) -> Path:
        """An empty folder for what is built once and then read."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def run_peer(self, script: str, options: dict[str, object]) -> None:
        """Run a peer's script for what it writes, not for its time."""
        run_script(script, [self.peers_python, str(PEERS / script), json.dumps(options)], self.core)


def full(folder: Path, peers_python: str, text: tuple[Path, ...]) -> Plan:
    """What the published figures come from: 20 minutes on two cores."""
    return Plan(folder, peers_python, text)


def quick(folder: Path, peers_python: str, text: tuple[Path, ...]) -> Plan:
    """The same comparisons on a fraction of the data: three minutes. Its figures are rough."""
    return Plan(
        folder,
        peers_python,
        text,
        repetitions=2,
        small_bytes=4 * MEGA,
        large_bytes=100 * MEGA,
        other_bytes=2 * MEGA,
        reading_shards=8,
        shuffle_shards=1536,
        balance_seeds=5,
    )


DEFAULT_FOLDER = ROOT / "build/bench-data"
DEFAULT_PEERS_PYTHON = ROOT / ".venv-peers/bin/python"
