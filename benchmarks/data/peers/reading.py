"""Peers that deliver shuffled batches int64 [rows, length] in one process, without workers.

Options: peer, folder (of reading_build.py), tokens (a file of uint16), shard_tokens, length, rows, seed, verify.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from delivering import batched, deliver
from measured import options


def places(asked: dict[str, Any]) -> np.ndarray:
    """(shard, first token) of all sequences, in a random order, int64 [sequences, 2]."""
    step = asked["length"] - 1
    shards = Path(asked["tokens"]).stat().st_size // 2 // asked["shard_tokens"]
    each = (asked["shard_tokens"] - 1) // step
    order = np.random.default_rng(asked["seed"]).permutation(shards * each)
    shard, sequence = np.divmod(order, each)
    return np.stack([shard, sequence * step], axis=1)


def memmap_batches(asked: dict[str, Any]) -> Iterator[np.ndarray]:
    """The limit: one flat map, slices at random places, no checks."""
    flat = np.memmap(asked["tokens"], np.uint16, "r").view(np.ndarray)
    length, rows, shard_tokens = asked["length"], asked["rows"], asked["shard_tokens"]
    starts = (places(asked) @ np.array([shard_tokens, 1])).tolist()
    for at in range(0, len(starts), rows):
        chosen = starts[at : at + rows]
        batch = np.empty((len(chosen), length), np.int64)
        for row, start in zip(batch, chosen, strict=True):
            row[:] = flat[start : start + length]
        yield batch


def megatron_batches(asked: dict[str, Any]) -> Iterator[np.ndarray]:
    """IndexedDataset with its memory map, a part of a document at random places, as GPTDataset asks for them."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(f"{asked['folder']}/megatron/tokens", mmap=True)
    length = asked["length"]
    rows = (dataset.get(shard, offset=first, length=length) for shard, first in places(asked).tolist())
    return batched(rows, asked["rows"])


def litdata_batches(asked: dict[str, Any]) -> Iterator[np.ndarray]:
    """StreamingDataset with TokensLoader: chunks in a random order, blocks shuffled within a chunk."""
    import litdata

    dataset = litdata.StreamingDataset(
        f"{asked['folder']}/litdata",
        item_loader=litdata.TokensLoader(block_size=asked["length"]),
        shuffle=True,
        seed=asked["seed"],
    )
    return batched((block.numpy() for block in dataset), asked["rows"])


def streaming_batches(asked: dict[str, Any]) -> Iterator[np.ndarray]:
    """MosaicML Streaming with its default shuffle, py1e."""
    import vision  # noqa: F401
    from streaming import StreamingDataset

    dataset = StreamingDataset(
        local=f"{asked['folder']}/streaming", shuffle=True, shuffle_seed=asked["seed"], batch_size=asked["rows"]
    )
    return batched((sample["tokens"] for sample in dataset), asked["rows"])


def webdataset_batches(asked: dict[str, Any]) -> Iterator[np.ndarray]:
    """WebDataset's own reader: tars in a random order, a shuffle buffer of its default size."""
    import webdataset

    tars = sorted(str(path) for path in Path(asked["folder"], "webdataset").glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=asked["seed"]).shuffle(1000).decode()
    return batched((sample["npy"] for sample in dataset), asked["rows"])


PEERS = {
    "memmap": (memmap_batches, ("numpy",)),
    "megatron": (megatron_batches, ("megatron-core", "torch")),
    "litdata": (litdata_batches, ("litdata", "torch")),
    "streaming": (streaming_batches, ("mosaicml-streaming", "torch")),
    "webdataset": (webdataset_batches, ("webdataset",)),
}


def main() -> None:
    """Measure one epoch; imports and opening are not counted."""
    asked = options()
    make, packages = PEERS[asked["peer"]]
    deliver(make(asked), packages, asked)


if __name__ == "__main__":
    main()
