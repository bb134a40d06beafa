"""The order and the length of a run: pure functions of its run file and dataset."""

from __future__ import annotations

import logging

from data_shards.dataset import Dataset
from data_shards.loader import train_order
from data_shards.order import Order
from data_shards.passes import PASSES_OF_FULL_WORTH, check_passes
from trainer.config import RunConfig
from trainer.schedule import total_steps
from trainer.stages import Length

logger = logging.getLogger(__name__)


def make_order(config: RunConfig, dataset: Dataset) -> Order:
    """The run's order of training sequences."""
    return train_order(
        dataset,
        seq_len=config.seq_len,
        seed=config.seed,
        streams=config.data.streams,
        window=config.data.shuffle_window,
        weights=config.data.weights,
    )


def planned_steps(config: RunConfig, dataset: Dataset, done: tuple[int, int]) -> int:
    """Optimizer steps of the whole run, of which `done` (steps, tokens) are behind."""
    per_epoch = None if config.data.weights else make_order(config, dataset).sequences_per_epoch
    return total_steps(config.train, config.tokens_per_step, config.seq_len, per_epoch, done)


def planned_length(config: RunConfig, dataset: Dataset, done: tuple[int, int]) -> Length:
    """The length of the whole run, of which `done` (steps, tokens) are behind."""
    return Length(*done, planned_steps(config, dataset, done), config.tokens_per_step)


def check_repetitions(config: RunConfig, dataset: Dataset, total_tokens: int) -> None:
    """Warn of sources that a run of so many tokens repeats often.

    Raises:
        DataError: naming a source that it would go through more often than its `max_passes`.
    """
    caps = {source.label: source.max_passes for source in config.data.sources if source.max_passes is not None}
    often = check_passes(make_order(config, dataset).passes(total_tokens // config.seq_len), caps)
    if often:
        told = ", ".join(f"{name} {times:.1f} times" for name, times in often.items())
        logger.warning(
            "the run goes through %s; past %g passes over the same text a model learns ever less from it "
            "(Muennighoff et al. 2023): more text would serve it better",
            told,
            PASSES_OF_FULL_WORTH,
        )
