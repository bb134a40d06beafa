"""Small corpora and what the tests ask of a dataset folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_shards.dataset import Dataset
from data_shards.prepare import RunUnits, prepare, run_units_serially
from data_shards.settings import DataSettings, resolve_paths

WORDS = ("tide", "über", "三国", "mill", "\U0001f600", "wheel", "sluice", "naïve", "<|endoftext|>", "race")


def sentence(number: int, words: int = 12) -> str:
    """A sentence that differs by its number, in several scripts."""
    return f"{number} " + " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(words))


def write_lines(path: Path, numbers: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{sentence(number)}\n" for number in numbers), encoding="utf-8", newline="")
    return path


def line_settings(base: Path, **changes: Any) -> DataSettings:
    """Documents are the lines of base/corpus/*.txt."""
    given = {
        "sources": [{"path": "corpus/*.txt", "document": "line"}],
        "tokenizer": {"train": "bpe", "vocab_size": 400},
        "val_fraction": 0.2,
        "unit_bytes": 4000,
        "block_tokens": 256,
        **changes,
    }
    return resolve_paths(DataSettings.model_validate(given), base)


def prepare_lines(base: Path, dir: Path, run_units: RunUnits = run_units_serially, **changes: Any) -> Dataset:
    return prepare(line_settings(base, **changes), dir=dir, min_val_tokens=17, run_units=run_units)


def public_files(dir: Path) -> Mapping[str, bytes]:
    """The dataset's files (not the locks, caches and temporary files) by relative path."""
    paths = (path for path in dir.rglob("*") if path.is_file())
    return {
        path.relative_to(dir).as_posix(): path.read_bytes()
        for path in sorted(paths)
        if not any(part.startswith(".") for part in path.relative_to(dir).parts)
    }


def times_of_change(dir: Path) -> Mapping[str, int]:
    return {str(path.relative_to(dir)): path.stat().st_mtime_ns for path in (dir, *dir.rglob("*"))}


def refuse_to_run(work: object, units: object) -> Any:
    raise AssertionError("no unit was to be run")
