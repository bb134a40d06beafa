"""What a run is made of: datasets, tokenizer, origin, as its start event tells it. Pure, but for the origin's run.json.

MLflow shows the datasets as the run's inputs and the rest as tags; `monitoring.translate` puts them into its words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_shards.dataset import MANIFEST_FILE, VERSIONS_FOLDER, Dataset
from data_shards.manifest import SPLITS
from monitoring.errors import MonitoringError
from monitoring.runs import read_run_folder
from trainer.config import RunConfig
from trainer.origin import parse_origin

_CONTEXTS = {"train": "training", "val": "validation"}


def lineage_tags(config: RunConfig, dataset: Dataset) -> dict[str, str]:
    """Fingerprints of corpus, tokenizer and dataset, the manifest's address, and where the first weights are from."""
    manifest = f"{str(dataset.dir).rstrip('/')}/{VERSIONS_FOLDER}/{dataset.fingerprint}/{MANIFEST_FILE}"
    return {
        "dataset.fingerprint": dataset.fingerprint,
        "dataset.manifest": manifest,
        "corpus.fingerprint": dataset.corpus_fingerprint,
        "tokenizer.fingerprint": dataset.tokenizer_fingerprint,
        **_origin_tags(config.init_from),
    }


def _origin_tags(init_from: str | None) -> dict[str, str]:
    """The origin as the run file names it; of a run that is still there its id too."""
    if init_from is None:
        return {}
    origin = parse_origin(init_from)
    try:
        return {"init_from": init_from, "init_from.run_id": read_run_folder(origin.folder).run_id}
    except MonitoringError:  # a folder of weights, or a run that was removed since the first start
        return {"init_from": init_from}


def dataset_facts(config: RunConfig, dataset: Dataset) -> list[dict[str, Any]]:
    """One entry for each split that has shards: name, fingerprint, address, context, and what is in it."""
    name = str(dataset.dir).rstrip("/").rpartition("/")[2] if config.data.dir else config.name
    return [_split_facts(name, dataset, split) for split in SPLITS if dataset.split(split)]


def _split_facts(name: str, dataset: Dataset, split: str) -> dict[str, Any]:
    shards = dataset.split(split)
    tokens: dict[str, int] = {}
    for shard in shards:
        tokens[shard.source] = tokens.get(shard.source, 0) + shard.tokens
    return {
        "name": f"{name}/{split}",
        "fingerprint": dataset.fingerprint,
        "address": _address(dataset.dir),
        "context": _CONTEXTS[split],
        "dtype": dataset.dtype,
        "vocab_size": dataset.vocab_size,
        "shards": len(shards),
        "documents": sum(shard.documents for shard in shards),
        "tokens": sum(tokens.values()),
        "bytes": sum(shard.bytes for shard in shards),
        "tokens_by_source": tokens,
    }


def _address(dir: Path | str) -> str:
    return str(dir.absolute()) if isinstance(dir, Path) else dir
