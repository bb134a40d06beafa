"""Headrace in one process: reading, hashing of the sources, encoding, writing and hashing of shards, the manifest.

Options: corpus (a JSONL file), tokenizer (tokenizer.json), out, eot_id, verify. The rate is that of the steady state:
what `prepare` needs to import, to load the vocabulary and to check the encoder is not counted, and the first unit is
run twice, the first time uncounted.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from measured import Stretch, answer, documents_digest, options

from data_shards.dataset import Dataset
from data_shards.prepare import PrepareProgress, prepare
from data_shards.settings import DataSettings
from data_shards.units import Unit
from data_shards.worker import UnitResult

WARM_DOCUMENTS = 200


class Clock:
    """Stands still while prepare loads the tokenizer and warms the worker."""

    def __init__(self) -> None:
        self.before, self.after = Stretch(), Stretch()

    def on_progress(self, progress: PrepareProgress) -> None:
        """The tokenizer's turn comes when the sources are hashed and cut."""
        if progress.phase == "tokenizer":
            self.before.__exit__(None, None, None)

    def run_units(self, work: Callable[[Unit], UnitResult], units: Sequence[Unit]) -> Iterator[UnitResult]:
        """All units in this process."""
        work(units[0])
        self.after.__enter__()
        yield from map(work, units)

    def total(self) -> Stretch:
        """Both parts together."""
        self.after.wall_seconds += self.before.wall_seconds
        self.after.cpu_seconds += self.before.cpu_seconds
        return self.after


def measured_prepare(corpus: Path, tokenizer: str, out: Path) -> tuple[Dataset, Stretch]:
    """One prepare into an empty folder, and its time."""
    source = {"path": str(corpus), "name": "corpus"}
    settings = DataSettings.model_validate({"sources": [source], "tokenizer": tokenizer})
    clock = Clock()
    clock.before.__enter__()
    dataset = prepare(settings, dir=out, min_val_tokens=0, run_units=clock.run_units, progress=clock.on_progress)
    clock.after.__exit__(None, None, None)
    return dataset, clock.total()


def prepare_a_little(corpus: Path, tokenizer: str) -> None:
    """For what is imported when it is first needed."""
    with tempfile.TemporaryDirectory() as folder, corpus.open("rb") as file:
        little = Path(folder, "little.jsonl")
        little.write_bytes(b"".join(islice(file, WARM_DOCUMENTS)))
        measured_prepare(little, tokenizer, Path(folder, "data"))


def token_streams(dataset: Path) -> Iterator[np.ndarray]:
    """The tokens of each shard, read by tarfile and numpy alone."""
    for path in sorted(dataset.glob("*.tar")):
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith(".tokens.npy")]
            yield np.concatenate([_array(tar, name) for name in names])


def _array(tar: tarfile.TarFile, name: str) -> np.ndarray:
    file = tar.extractfile(name)
    assert file is not None
    return np.asarray(np.load(io.BytesIO(file.read())))


def main() -> None:
    """Measure one prepare into an empty folder."""
    asked = options()
    corpus, out = Path(asked["corpus"]), Path(asked["out"])
    prepare_a_little(corpus, asked["tokenizer"])
    dataset, stretch = measured_prepare(corpus, asked["tokenizer"], out)
    answer(
        stretch,
        (),
        tokens=sum(shard.tokens for shard in dataset.shards),
        digest=documents_digest(token_streams(out), asked["eot_id"]) if asked["verify"] else None,
    )


if __name__ == "__main__":
    main()
