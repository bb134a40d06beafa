"""The tokenizer in a folder in Hugging Face's layout, which need not be one that data can be prepared with."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from trainer.errors import TrainError


def folder_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.json, which neither cuts nor pads. Raises TrainError if it is not there."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TrainError(f"{path}: no such file; put the model's tokenizer.json there")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_of_text_id(folder: Path) -> int:
    """The id at which a text ends, from generation_config.json or config.json. Raises TrainError if neither has it."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found = values.get("eos_token_id")
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, int):
            return found
    raise TrainError(f"{folder}/config.json: eos_token_id is missing; give the id of the token that ends a text")
