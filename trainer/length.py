"""The order and the length of a run: pure functions of its run file and dataset."""

from __future__ import annotations

from data_shards.dataset import Dataset
from data_shards.loader import train_order
from data_shards.order import Order
from trainer.config import RunConfig
from trainer.schedule import total_steps


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
