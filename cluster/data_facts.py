"""What the `headrace data` commands answer, as plain values: JSON, and what the texts and pages are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from data_shards.balance import Balance, RankLoad, max_over_mean
from data_shards.dataset import Dataset
from data_shards.loader import train_order
from data_shards.order import Order
from data_shards.settings import DataSettings, is_remote
from data_shards.stats import MOST_REMOTE_SHARDS, MOST_SHARDS, describe, describe_balance, describe_text
from trainer.config import RunConfig
from trainer.length import make_order, planned_steps

DEFAULT_SEQ_LEN, DEFAULT_SEED = 1024, 1337


def describe_all(dataset: Dataset, config: RunConfig | None, file: Path | None) -> dict[str, Any]:
    """All of `headrace data stats`: numbers, text, balance and, with a run's `config` from `file`, its mixture."""
    most = MOST_REMOTE_SHARDS if is_remote(str(dataset.dir)) else MOST_SHARDS
    return {
        **describe(dataset, most),
        "text": describe_text(dataset),
        "balance": describe_balance(dataset),
        "mixture": None if config is None else {"file": str(file), **mixture_facts(dataset, config)},
    }


def mixture_facts(dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    """What a run would draw from each source: share of tokens held and asked for, and passes over it."""
    held: dict[str, int] = {}
    for shard in dataset.split("train"):
        held[shard.source] = held.get(shard.source, 0) + shard.tokens
    tokens = planned_steps(config, dataset, (0, 0)) * config.tokens_per_step
    weights = config.data.weights
    passes = make_order(config, dataset).passes(tokens // config.seq_len)
    caps = {source.label: source.max_passes for source in config.data.sources}
    return {
        "tokens": tokens,
        "sources": {
            name: {
                "held_share": size / sum(held.values()),
                "asked_share": weights[name] / sum(weights.values()) if weights else size / sum(held.values()),
                "passes": passes[name],
                "max_passes": caps.get(name),
            }
            for name, size in held.items()
        },
    }


def order_facts(
    dataset: Dataset, config: RunConfig | None, seq_len: int | None, seed: int | None
) -> tuple[Order, dict[str, Any]]:
    """The order of training and what it was made from; `seq_len` and `seed` go before the run file's, if given."""
    fields = DataSettings.model_fields
    chosen = {
        "seq_len": sequence_length(dataset, config, seq_len),
        "seed": seed if seed is not None else config.seed if config else DEFAULT_SEED,
        "streams": config.data.streams if config else fields["streams"].default,
        "shuffle_window": config.data.shuffle_window if config else fields["shuffle_window"].default,
    }
    weights = config.data.weights if config else None
    order = train_order(
        dataset,
        seq_len=chosen["seq_len"],
        seed=chosen["seed"],
        streams=chosen["streams"],
        window=chosen["shuffle_window"],
        weights=weights,
    )
    facts = {
        "dir": str(dataset.dir),
        "fingerprint": dataset.fingerprint,
        "shards": len(dataset.split("train")),
        "tokens": dataset.tokens("train"),
        **chosen,
        "seq_len_from": "--seq-len"
        if seq_len is not None
        else "the run file"
        if config
        else "the dataset"
        if dataset.examples
        else "the default; see --seq-len, --file",
        "mixing": "sources by the run file's weights" if weights else "sources by their sizes",
    }
    return order, facts


def sequence_length(dataset: Dataset, config: RunConfig | None, seq_len: int | None) -> int:
    """The length asked for, else that of a dataset of examples, else the run file's, else 1,024; ClusterError if it is
    none."""
    if seq_len is None and dataset.examples is not None and config is None:
        return dataset.examples.seq_len
    if seq_len is None:
        return config.seq_len if config else DEFAULT_SEQ_LEN
    if seq_len < 1:
        raise ClusterError(f"--seq-len: must be at least 1, found {seq_len}: give the tokens of a training sequence")
    return seq_len


def balance_facts(found: Balance) -> dict[str, Any]:
    """A balance as JSON takes it."""
    loss = found.loss
    return {
        "world": found.world,
        "sequences": found.sequences,
        **_load_facts(found.load),
        "round_robin_max_over_mean": found.round_robin,
        "longest_first_max_over_mean": found.longest_first,
        "after_loss": None
        if loss is None
        else {
            "ranks": loss.ranks,
            "position": loss.position,
            **_load_facts(loss.load),
            "moved_share": loss.moved_share,
            "least_moved_share": loss.least_moved_share,
            "extra_shards": loss.extra_shards,
            "extra_shards_are_exact": loss.extra_is_exact,
        },
    }


def _load_facts(load: RankLoad) -> dict[str, Any]:
    return {
        "tokens_max_over_mean": max_over_mean(load.tokens),
        "rank_tokens": load.tokens.tolist(),
        "rank_shards": load.shards.tolist(),
        "rank_shards_are_exact": load.is_exact,
    }
