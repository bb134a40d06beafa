"""The one tokenizer of a dataset's folder: trained or taken once, and kept."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from data_shards.batches import RecordBatch, TextBatch
from data_shards.dataset import TOKENIZER_FILE, Dataset
from data_shards.errors import DataError
from data_shards.records import record_hash, record_texts
from data_shards.rejects import Rejects, shown
from data_shards.settings import TOKEN_FORMATS, DataSettings, TrainTokenizer
from data_shards.storage import Folder
from data_shards.task_settings import task_kind
from data_shards.tokenizer import (
    TextTokenizer,
    file_fingerprint,
    load_tokenizer,
    parse_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from data_shards.units import Unit

logger = logging.getLogger(__name__)

SETTINGS_FILE = "tokenizer_settings.json"
SAMPLE_BYTES = 100_000_000
# Of the corpus's text so much is encoded twice before the work starts, at two megabytes a second.
CHECK_BYTES = 1 << 19
EXACT_ENCODER_VARIABLE = "HEADRACE_EXACT_ENCODER"


def committed_tokenizer(settings: DataSettings, committed: Dataset) -> TextTokenizer:
    """The tokenizer of a dataset that is there; DataError if the settings ask for another or its file is not whole."""
    path = committed.tokenizer_path
    note = _parse_note(committed.kept(SETTINGS_FILE))
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


def first_tokenizer(settings: DataSettings, folder: Folder, units: Sequence[Unit], corpus: str) -> TextTokenizer:
    """The tokenizer of a folder without a dataset; what a killed prepare left is used if it is the same.

    `corpus` is the corpus's fingerprint. Raises DataError for an unusable tokenizer and for an empty corpus.
    """
    path = Path(folder.address, TOKENIZER_FILE)
    wanted = _wanted(settings)
    note = _parse_note(folder.read(SETTINGS_FILE))
    left = folder.read(TOKENIZER_FILE)
    if note is not None and note["settings"] == wanted and note["corpus"] == corpus and left is not None:
        tokenizer = parse_tokenizer(left, path)
        if tokenizer.fingerprint == note["fingerprint"]:
            return tokenizer
    if isinstance(settings.tokenizer, TrainTokenizer):
        data = train_tokenizer(_sample(units, settings), settings.tokenizer.vocab_size)
    else:
        data = read_tokenizer(settings.tokenizer)
    tokenizer = parse_tokenizer(data, path)
    _warn_if_small(tokenizer, settings)
    folder.write(TOKENIZER_FILE, data)
    note = {"settings": wanted, "corpus": corpus, "fingerprint": tokenizer.fingerprint}
    folder.write(SETTINGS_FILE, (json.dumps(note, indent=1, sort_keys=True) + "\n").encode())
    return tokenizer


def sample_texts(units: Sequence[Unit], on_bad_record: str, sample_bytes: int = SAMPLE_BYTES) -> Iterator[str]:
    """Training text for the tokenizer: from the start of each unit a part that goes by its size, `sample_bytes` in all.

    Held-out documents are left out. A document that turns out bad at its end may be among them.
    """
    total = sum(unit.text_bytes for unit in units)
    left = sample_bytes
    for unit in units:
        # Where all fits, all is taken: the size of compressed files is only guessed.
        quota = left if total <= sample_bytes else min(left, -(-unit.text_bytes * sample_bytes // total))
        left -= quota
        for part in _up_to(quota, _texts(unit, on_bad_record, train_only=True)):
            yield part
            quota -= len(part.encode())
        left += max(0, quota)


def fast_encoder_agrees(
    tokenizer: TextTokenizer, units: Sequence[Unit], on_bad_record: str, sample_bytes: int = CHECK_BYTES
) -> bool:
    """Whether the fast encoder can be used: it gives the tokens of `tokenizers` for the first text of each source.

    If not, a warning says so. The environment variable HEADRACE_EXACT_ENCODER, not empty, has it not used.
    """
    if os.environ.get(EXACT_ENCODER_VARIABLE):
        logger.info("text is encoded by tokenizers, since %s is set", EXACT_ENCODER_VARIABLE)
        return False
    if not tokenizer.encoder.is_fast:
        return False  # which was said when it was loaded
    with_text = [unit for unit in units if unit.pieces[0].file.format not in TOKEN_FORMATS]
    sources = list(dict.fromkeys(unit.source for unit in with_text))
    for source in sources:
        own = [unit for unit in with_text if unit.source == source]
        texts = chain.from_iterable(_texts(unit, on_bad_record) for unit in own)
        different = tokenizer.encoder.first_difference(list(_up_to(sample_bytes // len(sources), texts)))
        if different is not None:
            logger.warning(
                "text is encoded by tokenizers, which is slow, since fastokens gives other tokens for a text of %s: %r",
                source,
                shown(different),
            )
            return False
    return True


def _texts(unit: Unit, on_bad_record: str, *, train_only: bool = False) -> Iterator[str]:
    """The unit's texts; long documents come in parts."""
    goes_on = wanted = False
    for batch in unit.documents(Rejects(on_bad_record, logged_per_reason=0)):
        if isinstance(batch, RecordBatch):
            yield from _record_texts(unit, batch, train_only=train_only)
        if not isinstance(batch, TextBatch):
            goes_on = False
            continue
        for text in batch.texts:
            wanted = wanted if goes_on else not train_only or unit.rule.split_of(text.encode()) == "train"
            goes_on = False
            if wanted:
                yield text
        goes_on = batch.unfinished


def _record_texts(unit: Unit, batch: RecordBatch, *, train_only: bool) -> Iterator[str]:
    """The texts of records, without the names of classes and roles."""
    kind = task_kind(unit.pieces[0].file.task)
    for row in batch.rows:
        if not train_only or not unit.rule.is_held_out(record_hash(kind, row)):
            yield from record_texts(kind, row)


def _up_to(size: int, texts: Iterator[str]) -> Iterator[str]:
    """The first `size` bytes of texts."""
    while size > 0 and (text := next(texts, None)) is not None:
        part = text.encode()[:size]
        yield part.decode(errors="ignore")  # the cut may be within a character
        size -= len(part)


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
    return {"given": file_fingerprint(read_tokenizer(settings.tokenizer), settings.tokenizer)}


def _parse_note(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    note = json.loads(data)
    return note if isinstance(note, dict) else None
