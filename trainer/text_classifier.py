"""A classifier with its tokenizer: texts, or pairs of them, to the probability of each class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_shards.examples import class_example, fitted
from data_shards.loss_bit import token_ids
from data_shards.task_settings import ClassTask
from model.gpt import GPT
from model.huggingface_config import class_names, read_json
from model.huggingface_folder import load_model
from trainer.errors import TrainError
from trainer.folder_tokenizer import end_of_text_id, folder_tokenizer
from trainer.language_model import ModelPlace, open_at_step

logger = logging.getLogger(__name__)

TEXTS_AT_ONCE = 32
Ids = NDArray[np.uint32]


class Text(NamedTuple):
    """What is to be classified."""

    text: str
    pair: str | None = None


@dataclass(frozen=True)
class TextClassifier:
    """A GPT with a head for classes, in evaluation mode, and what it was trained to read."""

    model: GPT
    classes: tuple[str, ...]
    encode: Callable[[str], Ids]
    eot_id: int
    fields: tuple[str, ...] | None = None
    """Where its records keep the text and perhaps its pair; None: unknown."""

    @torch.no_grad()
    def probabilities(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """[texts, classes]. A text that is too long loses its beginning, as in training, which is logged.

        Raises TrainError for a text without a character, or one with a pair where there was none in training, or the
        other way round.
        """
        for number, text in enumerate(texts, 1):
            self._check(text, number)
        ids = [self._ids(text) for text in texts]
        by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = np.empty((len(texts), len(self.classes)), np.float32)
        for chosen in _chunks(by_length):
            found[chosen] = self._of_batch([ids[i] for i in chosen])
        return found

    def _check(self, text: Text, number: int) -> None:
        if not text.text:
            raise TrainError(f"text {number}: must have at least one character to be classified, and is empty.")
        if self.fields is not None and (text.pair is not None) != (len(self.fields) == 2):
            wanted = "pairs of texts" if len(self.fields) == 2 else "single texts"
            found = "a single text" if text.pair is None else "a pair of texts"
            raise TrainError(f"text {number}: the run was trained on {wanted}; found {found}. Give what it was.")

    def _ids(self, text: Text) -> Ids:
        """As training stores it, but for the class at the end."""
        pair = None if text.pair is None else self.encode(text.pair)
        example = class_example(self.encode(text.text), pair, 0, self.eot_id)
        kept = fitted(example, self.model.config.max_seq_len)
        assert kept is not None  # a class alone is shorter than any sequence
        if len(kept) < len(example):
            logger.warning("%r...: the first %d tokens are left out", text.text[:40], len(example) - len(kept))
        return token_ids(kept)[:-1]

    def _of_batch(self, ids: Sequence[Ids]) -> NDArray[np.float32]:
        """[texts, classes]. Padding behind a text changes nothing: its tokens do not see it."""
        lengths = [len(own) for own in ids]
        tokens = np.full((len(ids), max(lengths)), self.eot_id, np.int64)
        for row, own in zip(tokens, ids, strict=True):
            row[: len(own)] = own
        logits_btk = self.model(torch.from_numpy(tokens).to(self.model.wte.weight.device))
        logits_bk = logits_btk[torch.arange(len(ids)), torch.tensor(lengths) - 1]
        found: NDArray[np.float32] = logits_bk.float().softmax(-1).cpu().numpy()
        return found


def open_classifier(place: ModelPlace) -> TextClassifier:
    """Read a classifier, onto a GPU where there is one.

    Raises:
        TrainError, ModelError, DataError: there is none, it is not whole, or it is a language model.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _of_run(place, device) if place.is_run else _of_folder(place, device)


def _of_run(place: ModelPlace, device: torch.device) -> TextClassifier:
    trained = open_at_step(place)
    task, tokenizer = trained.config.data.task, trained.tokenizer()
    if not isinstance(task, ClassTask):
        raise _no_classifier(place)
    return TextClassifier(
        trained.model().to(device),
        trained.dataset.classes,
        lambda text: tokenizer.encode([text])[0],
        tokenizer.eot_id,
        task.fields[1:],
    )


def _of_folder(place: ModelPlace, device: torch.device) -> TextClassifier:
    path = place.folder / "config.json"
    classes = class_names(path, read_json(path))
    if not classes:
        raise _no_classifier(place)
    tokenizer, (model, _) = folder_tokenizer(place.folder), load_model(place.folder)

    def encode(text: str) -> Ids:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    return TextClassifier(model.eval().to(device), classes, encode, end_of_text_id(place.folder))


def _no_classifier(place: ModelPlace) -> TrainError:
    return TrainError(
        f"{place.folder}: a classifier is needed, and this is a language model. Train on sources with a task "
        "{text: FIELD, label: FIELD}, or continue texts with `headrace generate`."
    )


def _chunks(order: Sequence[int]) -> Iterator[list[int]]:
    for first in range(0, len(order), TEXTS_AT_ONCE):
        yield list(order[first : first + TEXTS_AT_ONCE])
