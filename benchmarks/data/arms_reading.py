"""Reading side by side: shuffled batches int64 [16, 1025], one process without workers, the page cache warm."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.arms import OWN, PEERS, Arm, compare
from benchmarks.data.plan import EOT_ID, Plan
from benchmarks.data.shuffle import default_settings
from data_shards.dataset import Dataset, commit
from data_shards.manifest import dataset_fingerprint
from tests.data_shards.loader_dataset import write_shard

HEADRACE, MEMMAP, MEGATRON, LITDATA, STREAMING, WEBDATASET = (
    "headrace",
    "raw memory map",
    "Megatron IndexedDataset",
    "litdata TokensLoader",
    "MosaicML Streaming",
    "webdataset",
)
PEER_OF = {
    MEMMAP: "memmap",
    MEGATRON: "megatron",
    LITDATA: "litdata",
    STREAMING: "streaming",
    WEBDATASET: "webdataset",
}
LENGTH, ROWS, SEED = 1025, 16, 1
SHARD_TOKENS, BLOCK_TOKENS = 1_000_000, 65_536


def measure_reading(plan: Plan) -> dict[str, Any]:
    """One comparison of all readers over the same sequences, each once in an epoch."""
    folder = plan.made("reading")
    tokens = np.random.default_rng(0).integers(0, EOT_ID, plan.reading_shards * SHARD_TOKENS).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    make_dataset(folder / "headrace", np.split(tokens, plan.reading_shards))
    layout = {"tokens": str(folder / "tokens.bin"), "shard_tokens": SHARD_TOKENS, "length": LENGTH}
    formats = [name for name in PEER_OF.values() if name != "memmap"]
    plan.run_peer("reading_build.py", {**layout, "out": str(folder), "formats": formats})
    found = compare("reading", _arms(plan, folder, layout), plan.repetitions)
    amount = next(iter(found.samples.values()))[0]["tokens"]
    return {"tokens": amount, "shards": plan.reading_shards, "comparison": asdict(found)}


def make_dataset(folder: Path, shards: list[np.ndarray]) -> None:
    """The shards as `headrace prepare` lays them out."""
    folder.mkdir()
    made = [
        write_shard(folder, "train", "a", number, tokens, BLOCK_TOKENS, "uint16")
        for number, tokens in enumerate(shards)
    ]
    fingerprint = dataset_fingerprint("bench", made)
    commit(
        Dataset(
            dir=folder,
            fingerprint=fingerprint,
            tokenizer_fingerprint="bench",
            corpus_fingerprint="bench",
            vocab_size=EOT_ID + 1,
            eot_id=EOT_ID,
            dtype="uint16",
            shards=tuple(made),
        )
    )


def _arms(plan: Plan, folder: Path, layout: dict[str, Any]) -> list[Arm]:
    common = {"length": LENGTH, "rows": ROWS, "seed": SEED}
    defaults = default_settings()
    own = {"folder": str(folder / "headrace"), "streams": defaults.streams, "window": defaults.shuffle_window}
    peers = [
        Arm(
            name,
            plan.peers_python,
            PEERS / "reading.py",
            {**common, **layout, "folder": str(folder), "peer": peer},
            plan.core,
        )
        for name, peer in PEER_OF.items()
    ]
    return [Arm(HEADRACE, sys.executable, OWN / "reading.py", {**common, **own}, plan.core), *peers]
