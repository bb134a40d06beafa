"""The first weights of a run out of another model: of a folder in Hugging Face's layout, or of another run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.tokenizer import read_tokenizer
from model.config import GPTConfig
from model.errors import ModelError
from model.huggingface_folder import WeightsFolder
from model.huggingface_layout import VOCABULARY_PARAMETERS
from model.lora import merge
from model.lora_settings import LoRASettings
from model.settings import SHAPE_FIELDS
from trainer.checkpoint.load import CheckpointReader, SavedParameters
from trainer.checkpoint.store import Choice
from trainer.collectives import broadcast_from_first
from trainer.errors import TrainError
from trainer.origin import Origin, absent, parse_origin
from trainer.trained import find_checkpoint, model_config_of, open_dataset, open_trained

logger = logging.getLogger(__name__)

# They may differ: dropout is not in the weights, and of positions the first are taken.
_FREE_FIELDS = ("dropout", "max_seq_len")
_CLASS_HEAD = frozenset({"score.weight"})
_OF_ROTARY_POSITIONS = ("rotary_dim", "rotary_base", "rotary_pairs")


_Chosen = tuple[Choice, LoRASettings | None, tuple[str, ...]]


@dataclass(frozen=True)
class Weights:
    """Parameters that can be read in parts. `read_into(out, name, start)` fills `out` [length] with elements from
    `start` on of a flattened parameter, as float32."""

    config: GPTConfig
    classes: tuple[str, ...]  # a classifier's, by number
    names: frozenset[str]
    read_into: Callable[[torch.Tensor, str, int], None]


def check_origin(init_from: str, config: GPTConfig, dataset: Dataset) -> None:
    """Refuse what cannot be started from, before anything starts. Files' hashes are not looked at.

    Raises:
        TrainError: the origin is not there or not whole, or its shape or vocabulary is not the run's.
    """
    origin = parse_origin(init_from)
    if origin.is_run:
        trained = open_trained(origin.folder, origin.step)
        theirs, tokenizer = trained.model_config, trained.dataset.tokenizer_path.read_bytes()
        classes = trained.dataset.classes
    else:
        folder, tokenizer = _open_folder(origin), _folder_tokenizer(origin)
        theirs, classes = folder.config, folder.classes
    check_shape(origin, config, theirs)
    if starts_head_anew(dataset.classes, classes):
        logger.warning("init_from: %s: the head %s", origin, why_anew(dataset.classes, classes))
    _check_vocabulary(origin, dataset.tokenizer_path.read_bytes(), tokenizer)


def starts_head_anew(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether the origin's head means something else than the run's: other classes, the same in another order, or
    tokens. classes: names by number, none of a language model."""
    return ours != theirs


def why_anew(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """What is said of a head that starts anew."""
    here, there = ("is of classes " + ", ".join(names) if names else "is of tokens" for names in (ours, theirs))
    return f"there {there} and here {here}: it starts anew, from random weights, or is the token embedding"


def start_from(engine: Any, init_from: str, config: GPTConfig, classes: tuple[str, ...] = ()) -> None:
    """Put the origin's weights into a fresh engine, whose optimizer's state stays fresh; all ranks call it together.

    Each rank reads what it holds. Parameters that the origin does not have, and a head that `starts_head_anew`, keep
    their first values, and the rows that pad the vocabulary become zero. Adapters (LoRA) of the origin are merged.
    classes: those of a classifier, by number.

    Raises:
        TrainError: as `check_origin`, or the run's checkpoint is damaged.
    """
    # Here, so that who only checks an origin needs no DeepSpeed: the driver, which takes seconds less to start.
    from trainer.engine_state import finish_restore, held_fragments, set_frozen
    from trainer.engine_state import parameter_shapes as engine_shapes

    origin = parse_origin(init_from)
    with _opened(origin) as weights:
        check_shape(origin, config, weights.config)
        names = weights.names - (_CLASS_HEAD if starts_head_anew(classes, weights.classes) else frozenset())
        fragments = held_fragments(engine)
        for fragment in fragments:
            if fragment.name in names:
                _fill(fragment.master, weights, config, fragment.name, fragment.start)
        for name, shape in engine_shapes(engine, trainable=False).items():
            if name in names:
                value = torch.empty(shape).view(-1)
                _fill(value, weights, config, name, 0)
                set_frozen(engine, name, value.view(shape))
    finish_restore(engine, [0.0] * len(fragments), None)
    logger.info("starting from the weights of %s", origin)


def _fill(out: torch.Tensor, weights: Weights, config: GPTConfig, name: str, start: int) -> None:
    """Elements from `start` on of the run's parameter, of which the origin's has at least as many, in the same order,
    but for rows that pad the vocabulary."""
    real = out.numel()
    if name in VOCABULARY_PARAMETERS:
        row = 1 if name == "head_bias" else config.n_embd
        real = min(max(config.real_vocab_size * row - start, 0), real)
    if real:
        weights.read_into(out[:real], name, start)
    out[real:].zero_()


@contextmanager
def _opened(origin: Origin) -> Iterator[Weights]:
    if not origin.is_run:
        folder = _open_folder(origin)
        yield Weights(folder.config, folder.classes, frozenset(folder.shapes), _reader_of_folder(folder))
        return
    choice, lora, classes = _choice_of_first_rank(origin)
    with CheckpointReader(choice.address, choice.manifest) as reader:
        saved: Mapping[str, torch.Tensor] = SavedParameters(reader)
        config = model_config_of(choice.manifest)
        if lora is None:
            yield Weights(config, classes, frozenset(saved), reader.read_weights_into)
        else:
            merged = merge(saved, lora)
            yield Weights(config, classes, frozenset(merged), _reader_of_mapping(merged))


def _reader_of_folder(folder: WeightsFolder) -> Callable[[torch.Tensor, str, int], None]:
    def read_into(out: torch.Tensor, name: str, start: int) -> None:
        out.copy_(folder.read(name).view(-1)[start : start + out.numel()])

    return read_into


def _reader_of_mapping(parameters: Mapping[str, torch.Tensor]) -> Callable[[torch.Tensor, str, int], None]:
    def read_into(out: torch.Tensor, name: str, start: int) -> None:
        out.copy_(parameters[name].view(-1)[start : start + out.numel()])

    return read_into


def _choice_of_first_rank(origin: Origin) -> _Chosen:
    """The run's checkpoint, verified by rank 0, its adapters and its classes; rank 0's error is raised by all."""
    found: _Chosen | None = None
    error = ""
    if dist.get_rank() == 0:
        try:
            config, choice = find_checkpoint(origin.folder, origin.step)
            is_classifier = model_config_of(choice.manifest).n_classes is not None
            found = choice, config.train.lora, open_dataset(config, choice).classes if is_classifier else ()
        except (TrainError, DataError, OSError) as refusal:
            error = f"init_from: {refusal}"
    found, error = broadcast_from_first((found, error))
    if found is None:
        raise TrainError(error)
    return found


def _open_folder(origin: Origin) -> WeightsFolder:
    if not (origin.folder / "config.json").is_file():
        raise absent(origin)
    if origin.step is not None:
        raise TrainError(f"init_from: {origin}: only a run has steps, this is a folder of weights; leave out @STEP.")
    try:
        return WeightsFolder(origin.folder)
    except ModelError as error:
        raise TrainError(f"init_from: {error}") from error


def _folder_tokenizer(origin: Origin) -> bytes:
    try:
        return read_tokenizer(origin.folder)
    except DataError as error:
        raise TrainError(
            f"init_from: {origin.folder} must have the tokenizer that its weights were trained with, to be compared "
            f"with the dataset's. Put its tokenizer.json there. ({error})"
        ) from error


def check_shape(origin: Origin, ours: GPTConfig, theirs: GPTConfig) -> None:
    """Refuse an origin of another shape than the run's.

    Raises:
        TrainError: naming the fields.
    """
    wanted, found = _comparable(ours), _comparable(theirs)
    said = [f"{name} is {wanted[name]!r}, there {found[name]!r}" for name in wanted if wanted[name] != found[name]]
    if ours.positions == "learned" and ours.max_seq_len > theirs.max_seq_len:
        said.append(f"max_seq_len is {ours.max_seq_len}, and only {theirs.max_seq_len} positions were learned there")
    if ours.real_vocab_size > theirs.real_vocab_size:
        said.append(f"the tokenizer has {ours.real_vocab_size} tokens, and there are {theirs.real_vocab_size} there")
    if said:
        raise TrainError(
            f"init_from: {origin} must have the shape of the model section, but {'; '.join(said)}. Leave these fields "
            "and model.preset out to take them from there."
        )


def _comparable(config: GPTConfig) -> dict[str, Any]:
    """What must be equal, with what is None written out."""
    values = {name: getattr(config, name) for name in SHAPE_FIELDS if name not in _FREE_FIELDS}
    values |= {"n_kv_head": config.kv_heads, "head_dim": config.head_width, "mlp_dim": config.mlp_width}
    values["rotary_dim"] = config.rotary_width
    if config.positions == "learned":
        for name in _OF_ROTARY_POSITIONS:
            del values[name]
    return values


def _check_vocabulary(origin: Origin, ours: bytes, theirs: bytes) -> None:
    """Refuse a tokenizer.json that gives a token of ours another id, or none."""
    wanted, found = (Tokenizer.from_buffer(data).get_vocab(with_added_tokens=True) for data in (ours, theirs))
    other = sorted((id, token) for token, id in wanted.items() if found.get(token) != id)
    if other:
        id, token = other[0]
        raise TrainError(
            f"init_from: {origin} must have the dataset's vocabulary, but {len(other)} of {len(wanted)} tokens differ: "
            f"{token!r} is token {id} of the dataset and {found.get(token, 'none')} there. Prepare the data with that "
            "tokenizer: give its path in data.tokenizer."
        )
