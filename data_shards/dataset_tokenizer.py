"""The one tokenizer of a dataset's folder: trained or taken once, and kept."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_shards.dataset import TOKENIZER_FILE, Dataset
from data_shards.errors import DataError
from data_shards.files import write_atomically
from data_shards.rejects import Rejects
from data_shards.settings import DataSettings, TrainTokenizer
from data_shards.tokenizer import (
    TextTokenizer,
    load_tokenizer,
    parse_tokenizer,
    read_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from data_shards.units import Unit

logger = logging.getLogger(__name__)

SETTINGS_FILE = "tokenizer_settings.json"
SAMPLE_BYTES = 100_000_000


def committed_tokenizer(settings: DataSettings, committed: Dataset) -> TextTokenizer:
    """The tokenizer of a dataset that is there; DataError if the settings ask for another or its file is not whole."""
    path = committed.tokenizer_path
    note = _read_note(committed.dir)
    wanted = _wanted(settings)
    if note is None or note["settings"] != wanted:
        found = "unknown settings" if note is None else json.dumps(note["settings"])
        raise DataError(
            f"data.tokenizer: {json.dumps(wanted)} was asked for, but {committed.dir} was made with {found}: "
            "give another data.dir"
        )
    tokenizer = load_tokenizer(path) if path.is_file() else None
    if tokenizer is None or tokenizer.fingerprint != committed.tokenizer_fingerprint:
        raise DataError(f"{path}: missing or changed since the dataset was made: restore it, or give another data.dir")
    return tokenizer


def first_tokenizer(settings: DataSettings, dir: Path, units: Sequence[Unit], corpus: str) -> TextTokenizer:
    """The tokenizer of a folder without a dataset; what a killed prepare left is used if it is the same.

    `corpus` is the corpus's fingerprint. Raises DataError for an unusable tokenizer and for an empty corpus.
    """
    path = dir / TOKENIZER_FILE
    wanted = _wanted(settings)
    note = _read_note(dir)
    if note is not None and note["settings"] == wanted and note["corpus"] == corpus and path.is_file():
        tokenizer = load_tokenizer(path)
        if tokenizer.fingerprint == note["fingerprint"]:
            return tokenizer
    if isinstance(settings.tokenizer, TrainTokenizer):
        data = train_tokenizer(_sample(units, settings), settings.tokenizer.vocab_size)
    else:
        data = read_tokenizer(Path(settings.tokenizer))
    tokenizer = parse_tokenizer(data, path)
    _warn_if_small(tokenizer, settings)
    save_tokenizer(data, path)
    note = {"settings": wanted, "corpus": corpus, "fingerprint": tokenizer.fingerprint}
    write_atomically(dir / SETTINGS_FILE, (json.dumps(note, indent=1, sort_keys=True) + "\n").encode())
    return tokenizer


def sample_texts(units: Sequence[Unit], on_bad_record: str, sample_bytes: int = SAMPLE_BYTES) -> Iterator[str]:
    """Training text for the tokenizer: from the start of each unit a part that goes by its size, `sample_bytes` in all.

    Held-out documents are left out.
    """
    total = sum(unit.text_bytes for unit in units)
    left = sample_bytes
    for unit in units:
        # Where all fits, all is taken: the size of compressed files is only guessed.
        quota = left if total <= sample_bytes else min(left, -(-unit.text_bytes * sample_bytes // total))
        left -= quota
        for text in unit.documents(Rejects(on_bad_record, logged_per_reason=0)):
            if quota <= 0:
                break
            if unit.rule.split_of(text) == "train":
                part = text.encode()[:quota]
                yield part.decode(errors="ignore")  # the cut may be within a character
                quota -= len(part)
        left += max(0, quota)


def _sample(units: Sequence[Unit], settings: DataSettings) -> Iterator[str]:
    empty = True
    for text in sample_texts(units, settings.on_bad_record):
        empty = False
        yield text
    if empty:
        raise DataError("data.sources: hold no training document to make a tokenizer from: give files that hold text")


def _warn_if_small(tokenizer: TextTokenizer, settings: DataSettings) -> None:
    if isinstance(settings.tokenizer, TrainTokenizer) and tokenizer.vocab_size < settings.tokenizer.vocab_size:
        asked = settings.tokenizer.vocab_size
        logger.warning("the corpus gives %d tokens; data.tokenizer.vocab_size asks for %d", tokenizer.vocab_size, asked)


def _wanted(settings: DataSettings) -> dict[str, Any]:
    """What identifies a tokenizer: a given one's content, not its path."""
    if isinstance(settings.tokenizer, TrainTokenizer):
        return settings.tokenizer.model_dump()
    path = Path(settings.tokenizer)
    return {"given": parse_tokenizer(read_tokenizer(path), path).fingerprint}


def _read_note(dir: Path) -> dict[str, Any] | None:
    path = dir / SETTINGS_FILE
    if not path.is_file():
        return None
    note = json.loads(path.read_bytes())
    return note if isinstance(note, dict) else None
