"""The user's own functions on their way to the machines of a cluster: copies in OUT_DIR/code, which all nodes see."""

from __future__ import annotations

from pathlib import Path

from data_shards.named_function import carry, is_named
from data_shards.settings import SourceSettings
from trainer.config import RunConfig

CODE_FOLDER = "code"


def carry_code(config: RunConfig) -> RunConfig:
    """The run with its callbacks and readers as files in OUT_DIR/code, where they lie beside the run file now.

    Raises:
        DataError: a file cannot be copied.
    """
    folder = Path(config.out_dir) / CODE_FOLDER

    def with_reader(source: SourceSettings, field: str) -> SourceSettings:
        if not is_named(source.format):
            return source
        return source.model_copy(update={"format": carry(source.format, folder, field)})

    data = config.data
    sources = tuple(with_reader(source, "data.sources.format") for source in data.sources)
    held_out = data.val_sources and tuple(with_reader(source, "data.val_sources.format") for source in data.val_sources)
    callbacks = tuple(carry(text, folder, f"callbacks.{number}") for number, text in enumerate(config.callbacks))
    changed = data.model_copy(update={"sources": sources, "val_sources": held_out})
    return config.model_copy(update={"data": changed, "callbacks": callbacks})
