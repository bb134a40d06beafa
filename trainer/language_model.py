"""A model with its tokenizer: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from data_shards.chat_template import own_template
from data_shards.kept_template import kept_template
from model.config import GPTConfig
from model.encoder_decoder import EncoderDecoder, continue_greedily
from model.generate import Generation, row_seed
from model.gpt import GPT
from model.huggingface_config import read_folder_config
from model.huggingface_folder import load_model
from model.sampling import Sampling
from model.text_stream import TextStream
from trainer.chat import ChatFormat, chat_format
from trainer.errors import TrainError
from trainer.folder_tokenizer import end_of_text_id, folder_tokenizer
from trainer.trained import Trained, open_trained

NO_CHAT = (
    "--chat: the model must have been trained on conversations, or have a chat template in its folder, and has none. "
    "Leave --chat out, and give the whole prompt."
)


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is: a run's folder (at a step, or at its newest good checkpoint), or one in Hugging Face layout."""

    folder: Path
    is_run: bool
    step: int | None = None


@dataclass(frozen=True)
class TextRequest:
    """How texts are to go on: up to `max_new_tokens`, to the end-of-text token, or to one of the stop strings.

    Of a model that was trained on conversations, the end of the assistant's turn is one of these.
    """

    max_new_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()
    seed: int = 0
    is_chat: bool = False  # the prompts are what a user says

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
    chat: ChatFormat | None = None  # of a model that was trained on conversations

    def stream(
        self, prompts: Sequence[str], request: TextRequest, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Continue prompts together: (place among the prompts, next piece of its text), in the order of making.

        The pieces of a prompt add up to its text; none ends within a character. Each prompt draws by a seed of its
        own, which follows from the request's and its number in `rows` (default: its place), so that its text is the
        same in whatever batches the prompts of a file come. Raises ModelError for what the model cannot serve.
        """
        ids = [self._prompt_ids(prompt, request.is_chat) for prompt in prompts]
        stops = request.stops if self.chat is None else (*request.stops, *self.chat.stops)
        streams = [TextStream(self.decode, row_ids, stops) for row_ids in ids]
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

    def _prompt_ids(self, prompt: str, is_chat: bool) -> list[int]:
        if not is_chat:
            return [*self.prefix_ids, *self.encode(prompt)]
        if self.chat is None:
            raise TrainError(NO_CHAT)
        return self.chat.prompt_ids(prompt)

    def _greedy_texts(
        self, model: EncoderDecoder, ids: Sequence[list[int]], streams: Sequence[TextStream], request: TextRequest
    ) -> Iterator[tuple[int, str]]:
        """As `stream`; an encoder-decoder is continued prompt by prompt."""
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
    _refuse_classifier(place.folder, read_folder_config(place.folder)[1])
    model, _ = load_model(place.folder)
    return _of_folder(place.folder, model.eval().to(device))


def check_place(place: ModelPlace, request: TextRequest) -> None:
    """Refuse, without reading the weights, what `open_language_model` or the request would; raises the same."""
    if place.is_run:
        trained = open_at_step(place)
        _refuse_classifier(place.folder, trained.model_config)
        chat = _chat_of_run(trained, trained.tokenizer().backend)
    else:
        _refuse_classifier(place.folder, read_folder_config(place.folder)[1])
        end_of_text_id(place.folder)
        chat = _chat_of_folder(place.folder, folder_tokenizer(place.folder))
    if request.is_chat and chat is None:
        raise TrainError(NO_CHAT)


def _refuse_classifier(place: Path | str, config: GPTConfig) -> None:
    if config.n_classes is not None:
        raise TrainError(
            f"{place}: a language model is needed, but this is a classifier, which continues no text. Use `headrace "
            "classify` for the classes of new texts, `headrace evaluate` for its scores on the held-out ones."
        )


def _chat_of_run(trained: Trained, tokenizer: Tokenizer) -> ChatFormat | None:
    template = kept_template(trained.dataset, trained.config.data)
    return None if template is None else chat_format(template, tokenizer)


def _chat_of_folder(folder: Path, tokenizer: Tokenizer) -> ChatFormat | None:
    template = own_template(str(folder))
    return None if template is None else chat_format(template, tokenizer)


def of_trained(trained: Trained, device: torch.device) -> LanguageModel:
    """A run's model with the tokenizer that it was trained with. Raises TrainError if it is a classifier."""
    _refuse_classifier(trained.config.out_dir, trained.model_config)
    tokenizer = trained.tokenizer()
    return LanguageModel(
        trained.model().to(device),
        encode=lambda text: [int(token) for token in tokenizer.encode([text])[0]],
        decode=tokenizer.decode,
        eot_id=tokenizer.eot_id,
        chat=_chat_of_run(trained, tokenizer.backend),
    )


def open_at_step(place: ModelPlace) -> Trained:
    """The run in a place, at its step. Raises TrainError if there is no whole checkpoint of that step."""
    return open_trained(place.folder, place.step)


def _of_folder(folder: Path, model: GPT) -> LanguageModel:
    backend = folder_tokenizer(folder)

    def encode(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    def decode(ids: Sequence[int]) -> str:
        return str(backend.decode(list(ids), skip_special_tokens=False))

    prefix_ids = tuple(backend.encode("").ids)
    return LanguageModel(model, encode, decode, end_of_text_id(folder), prefix_ids, _chat_of_folder(folder, backend))
