"""The same sequences laid out as each peer reads them. Not measured.

Options: tokens (a file of uint16), shard_tokens, length (of a sequence, with its last label), out (a folder), formats.
A shard of n tokens gives (n - 1) // (length - 1) sequences; each starts at the last token of the one before.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import litdata
import numpy as np
import torch
import vision  # noqa: F401  before streaming
import webdataset
from measured import options
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from streaming import MDSWriter


def sequences(shard: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """The whole sequences of one shard, uint16 [length] each."""
    for start in range(0, len(shard) - length + 1, length - 1):
        yield shard[start : start + length]


def build_megatron(shards: list[np.ndarray], length: int, out: Path) -> None:
    """One .bin with an .idx; a shard is a document."""
    builder = IndexedDatasetBuilder(str(out / "tokens.bin"), dtype=np.uint16)
    for shard in shards:
        builder.add_item(torch.from_numpy(shard.astype(np.int32)))
        builder.end_document()
    builder.finalize(str(out / "tokens.idx"))


def build_webdataset(shards: list[np.ndarray], length: int, out: Path) -> None:
    """A tar for each shard, a member for each sequence."""
    for number, shard in enumerate(shards):
        with webdataset.TarWriter(str(out / f"{number:05d}.tar")) as tar:
            for row, sequence in enumerate(sequences(shard, length)):
                data = io.BytesIO()
                np.save(data, sequence)
                tar.write({"__key__": f"{number:05d}-{row:05d}", "npy": data.getvalue()})


def build_streaming(shards: list[np.ndarray], length: int, out: Path) -> None:
    """MDS shards of about the size of ours, a sample for each sequence."""
    columns = {"tokens": f"ndarray:uint16:{length}"}
    with MDSWriter(out=str(out), columns=columns, size_limit=shards[0].nbytes) as writer:
        for shard in shards:
            for sequence in sequences(shard, length):
                writer.write({"tokens": sequence})


def build_litdata(shards: list[np.ndarray], length: int, out: Path) -> None:
    """Chunks of tokens, one for each shard; a block is a whole sequence, so the shared token is there twice."""
    litdata.optimize(
        fn=_LitdataShard(shards, length),
        inputs=list(range(len(shards))),
        output_dir=str(out),
        chunk_size=sum(1 for _ in sequences(shards[0], length)) * length,
        item_loader=litdata.TokensLoader(),
        num_workers=1,
        keep_data_ordered=True,
        verbose=False,
    )


class _LitdataShard:
    def __init__(self, shards: list[np.ndarray], length: int) -> None:
        self._shards, self._length = shards, length

    def __call__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(list(sequences(self._shards[number], self._length))))


BUILDERS = {
    "megatron": build_megatron,
    "webdataset": build_webdataset,
    "streaming": build_streaming,
    "litdata": build_litdata,
}


def main() -> None:
    """Build what is asked for; each format in a folder of its own."""
    asked = options()
    tokens = np.fromfile(asked["tokens"], np.uint16)
    shards = np.split(tokens, range(asked["shard_tokens"], len(tokens), asked["shard_tokens"]))
    for name in asked["formats"]:
        folder = Path(asked["out"]) / name
        folder.mkdir(parents=True)
        BUILDERS[name](shards, asked["length"], folder)
    sys.stdout.write(json.dumps({"formats": asked["formats"]}) + "\n")


if __name__ == "__main__":
    main()
