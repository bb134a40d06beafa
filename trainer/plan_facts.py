"""What a plan must know of the data: the vocabulary, and the length of the run. Reads, and starts nothing."""

from __future__ import annotations

from dataclasses import dataclass

from data_shards.dataset import Dataset, has_dataset
from data_shards.settings import TrainTokenizer
from data_shards.storage import open_folder
from data_shards.tokenizer import load_tokenizer
from trainer.config import RunConfig
from trainer.errors import TrainError
from trainer.length import planned_steps
from trainer.schedule import total_steps


@dataclass(frozen=True)
class Facts:
    """vocab_size: ids of the tokenizer; n_classes: of records with classes, else None; steps: of the whole run."""

    vocab_size: int
    n_classes: int | None
    steps: int


def read_facts(config: RunConfig) -> Facts:
    """From the dataset where it is prepared, else from the run file and its tokenizer.

    Raises:
        TrainError: the length is given in epochs, and the data is not prepared.
        DataError: the dataset or the tokenizer cannot be read.
    """
    if has_dataset(open_folder(config.data_dir)):
        dataset = Dataset.open(config.data_dir)
        return Facts(dataset.vocab_size, len(dataset.classes) or None, planned_steps(config, dataset, (0, 0)))
    if config.train.epochs is not None:
        raise TrainError(
            f"train.epochs: a plan in epochs needs the data, but {config.data_dir} holds no dataset yet. Run `headrace "
            "prepare` first, or plan with --set train.epochs=null --set train.max_tokens=N."
        )
    steps = total_steps(config.train, config.tokens_per_step, config.seq_len, None, (0, 0))
    classes = None if config.data.classes is None else len(config.data.classes)
    return Facts(_vocabulary(config.data.tokenizer), classes, steps)


def _vocabulary(tokenizer: TrainTokenizer | str) -> int:
    if isinstance(tokenizer, TrainTokenizer):
        return tokenizer.vocab_size
    return load_tokenizer(tokenizer).vocab_size
