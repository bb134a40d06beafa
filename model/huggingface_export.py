"""A GPT written as a folder in Hugging Face's layout, from parameters that come one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import parameter_shapes
from model.huggingface_config import config_json
from model.huggingface_layout import LAYOUTS, Stored, model_type_of, stored_tensors
from model.safetensors_files import INDEX_NAME, FilePlan, SafetensorsFiles, index_json, plan_files

MAX_FILE_BYTES = 5_000_000_000


@dataclass(frozen=True)
class ChatFacts:
    """How conversations were written in training: the template, its tokens by name, and what ends a turn."""

    template: str
    tokens: Mapping[str, str]
    end_mark: str


def export(
    parameters: Iterable[tuple[str, Tensor]],
    config: GPTConfig,
    tokenizer_path: Path,
    to: Path,
    eot_id: int,
    *,
    dtype: torch.dtype = torch.float32,
    max_file_bytes: int = MAX_FILE_BYTES,
    classes: Sequence[str] = (),
    chat: ChatFacts | None = None,
) -> None:
    """Write a folder that `transformers` loads: safetensors, the tokenizer, and config.json last.

    A classifier becomes a model for sequence classification, with `classes` as the names of its labels. With `chat`
    the folder's `apply_chat_template` writes what was trained on, and `generate` also ends at a turn's end.

    parameters: name and value of each of `GPT(config)`'s, in any order; at most one is held at a time. They are
    stored as `dtype`. tokenizer_path: a tokenizer.json. Each file appears whole or not at all; weights of an earlier
    export go. Raises ModelError if no layout holds such a model, the parameters are not its own, the tokenizer is not
    the model's, or the folder cannot be written.
    """
    tokenizer = _tokenizer(tokenizer_path, config, eot_id)
    layout = LAYOUTS[model_type_of(config)]
    places = stored_tensors(layout, config, parameter_shapes(config))
    shapes = {stored.name: stored.shape for parts in places.values() for stored in parts}
    plans = plan_files(shapes, dtype, max_file_bytes)
    dtype_name = str(dtype).removeprefix("torch.")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with SafetensorsFiles(to, plans) as files:
            _write_parameters(parameters, places, files, dtype)
            files.publish()
        _settle_index(to, plans)
        _write(to / "tokenizer.json", tokenizer_path.read_bytes())
        _write_json(to / "tokenizer_config.json", _tokenizer_config(config, str(tokenizer.id_to_token(eot_id)), chat))
        _write_json(to / "generation_config.json", _generation_config(tokenizer, eot_id, chat))
        _write_json(to / "config.json", config_json(config, eot_id, dtype_name, classes))
    except OSError as error:
        raise ModelError(f"the model cannot be written to {to}: {error}; give a folder that you can write") from error


def _write_parameters(
    parameters: Iterable[tuple[str, Tensor]],
    places: Mapping[str, tuple[Stored, ...]],
    files: SafetensorsFiles,
    dtype: torch.dtype,
) -> None:
    left = set(places)
    for name, tensor in parameters:
        if name not in left:
            raise ModelError(f"parameter {name!r} is not one of the model's, or came twice; export the model as it is")
        left.remove(name)
        for stored in places[name]:
            part = tensor[stored.start : stored.stop].detach().cpu()
            files.write(stored.name, (part.T if stored.is_transposed else part).to(dtype))
    if left:
        raise ModelError(f"parameter {min(left)!r} is missing; export all {len(places)} parameters of the model")


def _settle_index(folder: Path, plans: list[FilePlan]) -> None:
    """An index where there are several files, and no weights of an earlier export beside them."""
    if len(plans) > 1:
        _write_json(folder / INDEX_NAME, index_json(plans))
    else:
        (folder / INDEX_NAME).unlink(missing_ok=True)
    current = {plan.name for plan in plans}
    for path in (*folder.glob("model-*-of-*.safetensors"), *folder.glob("model.safetensors")):
        if path.name not in current:
            path.unlink()


def _tokenizer(path: Path, config: GPTConfig, eot_id: int) -> Tokenizer:
    """The tokenizer of a tokenizer.json that has the model's vocabulary. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{path} is no file; give the tokenizer.json that the model was trained with")
    tokenizer = Tokenizer.from_file(str(path))
    size = tokenizer.get_vocab_size()
    if tokenizer.id_to_token(eot_id) is None or size > config.real_vocab_size:
        raise ModelError(
            f"{path} has {size} tokens, the model {config.real_vocab_size} with end-of-text {eot_id}: "
            "give the tokenizer.json that the model was trained with"
        )
    return tokenizer


def _tokenizer_config(config: GPTConfig, end_of_text: str, chat: ChatFacts | None) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_seq_len,
        "clean_up_tokenization_spaces": False,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), end_of_text),
        **({} if config.n_classes is None else {"pad_token": end_of_text}),
        **({} if chat is None else {**chat.tokens, "chat_template": chat.template}),
    }


def _generation_config(tokenizer: Tokenizer, eot_id: int, chat: ChatFacts | None) -> dict[str, Any]:
    """Where generation begins and ends: at the end of a text, or at a turn's, if that is one token."""
    turn_end = None if chat is None else tokenizer.token_to_id(chat.end_mark)
    ends = eot_id if turn_end in (None, eot_id) else [eot_id, turn_end]
    return {"bos_token_id": eot_id, "eos_token_id": ends}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    _write(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    """The file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
