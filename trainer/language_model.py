"""A model with its tokenizer: text in, text out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from model.encoder_decoder import EncoderDecoder, continue_greedily
from model.generate import Generation, row_seed
from model.gpt import GPT
from model.huggingface_folder import load_model
from model.sampling import Sampling
from model.text_stream import TextStream
from trainer.errors import TrainError
from trainer.trained import Trained, open_trained


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is: a run's folder (at a step, or at its newest good checkpoint), or one in Hugging Face layout."""

    folder: Path
    is_run: bool
    step: int | None = None


@dataclass(frozen=True)
class TextRequest:
    """How texts are to go on: up to `max_new_tokens`, to the end-of-text token, or to one of the stop strings."""

    max_new_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises TrainError for what no model can serve."""
        if self.max_new_tokens < 0:
            raise TrainError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 0")
        if "" in self.stops:
            raise TrainError("a stop string is empty; give at least one character, or leave it out")


@dataclass(frozen=True)
class LanguageModel:
    """A GPT in evaluation mode, and its tokenizer as two functions."""

    model: GPT
    encode: Callable[[str], list[int]]  # without any token that the text does not have
    decode: Callable[[Sequence[int]], str]
    eot_id: int
    prefix_ids: tuple[int, ...] = ()  # what the tokenizer has begin each text, such as Llama's <s>

    def stream(
        self, prompts: Sequence[str], request: TextRequest, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Continue prompts together: (place among the prompts, next piece of its text), in the order of making.

        The pieces of a prompt add up to its text; none ends within a character. Each prompt draws by a seed of its
        own, which follows from the request's and its number in `rows` (default: its place), so that its text is the
        same in whatever batches the prompts of a file come. Raises ModelError for what the model cannot serve.
        """
        ids = [[*self.prefix_ids, *self.encode(prompt)] for prompt in prompts]
        streams = [TextStream(self.decode, row_ids, request.stops) for row_ids in ids]
        if isinstance(self.model, EncoderDecoder):
            yield from self._greedy_texts(self.model, ids, streams, request)
            return
        generation = Generation(
            self.model,
            ids,
            request.max_new_tokens,
            request.sampling,
            seeds=[row_seed(request.seed, row) for row in (range(len(prompts)) if rows is None else rows)],
            eot_id=self.eot_id,
        )
        while tokens := generation.step():
            for token in tokens:
                stream = streams[token.row]
                piece = "" if token.id is None else stream.push(token.id)
                if token.is_last:
                    piece += stream.close()
                if piece:
                    yield token.row, piece
                if stream.is_stopped:
                    generation.finish(token.row)

    def _greedy_texts(
        self, model: EncoderDecoder, ids: Sequence[list[int]], streams: Sequence[TextStream], request: TextRequest
    ) -> Iterator[tuple[int, str]]:
        """As `stream`; an encoder-decoder has no cache, and is continued prompt by prompt."""
        if request.sampling.temperature != 0.0:
            raise TrainError(
                f"temperature: an encoder-decoder is continued greedily, so it must be 0; found "
                f"{request.sampling.temperature}. Give --temperature 0."
            )
        for row, (prompt_ids, stream) in enumerate(zip(ids, streams, strict=True)):
            for token in continue_greedily(model, prompt_ids, request.max_new_tokens, eot_id=self.eot_id):
                yield row, stream.push(token)
                if stream.is_stopped:
                    break
            yield row, stream.close()

    def texts(self, prompts: Sequence[str], request: TextRequest, rows: Sequence[int] | None = None) -> list[str]:
        """The texts that follow the prompts, as `stream` gives them."""
        pieces: list[list[str]] = [[] for _ in prompts]
        for row, piece in self.stream(prompts, request, rows):
            pieces[row].append(piece)
        return ["".join(of_row) for of_row in pieces]


def open_language_model(place: ModelPlace) -> LanguageModel:
    """Read a model, onto a GPU where there is one.

    Raises:
        TrainError, ModelError, DataError: there is none, or it is not whole.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if place.is_run:
        return of_trained(open_at_step(place), device)
    model, _ = load_model(place.folder)
    return _of_folder(place.folder, model.eval().to(device))


def check_place(place: ModelPlace) -> None:
    """Refuse, without reading the weights, what `open_language_model` would; raises the same."""
    if place.is_run:
        open_at_step(place)
    else:
        _tokenizer_of(place.folder)
        _eot_id(place.folder)


def of_trained(trained: Trained, device: torch.device) -> LanguageModel:
    """A run's model with the tokenizer that it was trained with. Raises TrainError if it is a classifier."""
    if trained.model_config.n_classes is not None:
        raise TrainError(
            f"{trained.config.out_dir}: a language model is needed, but the run trained a classifier, which continues "
            f"no text. Use `headrace evaluate` for its scores."
        )
    tokenizer = trained.tokenizer()
    return LanguageModel(
        trained.model().to(device),
        encode=lambda text: [int(token) for token in tokenizer.encode([text])[0]],
        decode=tokenizer.decode,
        eot_id=tokenizer.eot_id,
    )


def open_at_step(place: ModelPlace) -> Trained:
    """The run in a place, at its step. Raises TrainError if there is no whole checkpoint of that step."""
    return open_trained(place.folder, place.step)


def _tokenizer_of(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TrainError(f"{path}: no such file; put the model's tokenizer.json there")
    backend = Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _of_folder(folder: Path, model: GPT) -> LanguageModel:
    backend = _tokenizer_of(folder)

    def encode(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    def decode(ids: Sequence[int]) -> str:
        return str(backend.decode(list(ids), skip_special_tokens=False))

    return LanguageModel(model, encode, decode, _eot_id(folder), tuple(backend.encode("").ids))


def _eot_id(folder: Path) -> int:
    """The id at which a text ends, from generation_config.json or config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found = values.get("eos_token_id")
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, int):
            return found
    raise TrainError(f"{folder}/config.json: eos_token_id is missing; give the id of the token that ends a text")
