"""Many prompts of a file, continued on Ray Data: an actor loads the model once and takes batch after batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.ray_session import check_address, cluster_total, ray_session
from cluster.record_files import read_records, write_records
from trainer.language_model import ModelPlace, TextRequest, check_place, open_language_model

ROWS_AT_ONCE = 16
PROMPT = "prompt"
TEXT = "text"


class Writer:
    """A model that continues batches of prompts, in an actor of its own."""

    def __init__(self, place: ModelPlace, request: TextRequest) -> None:
        self.language_model, self.request = open_language_model(place), request

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """`prompt` and `row` (its number in the file) of each, to `row` and `text`."""
        rows, prompts = [int(row) for row in batch["row"]], [str(prompt) for prompt in batch[PROMPT]]
        # Each by its own number, so that a text does not depend on how Ray Data cut the file.
        texts = self.language_model.texts(prompts, self.request, rows)
        return {"row": rows, TEXT: texts}


def generate_file(place: ModelPlace, request: TextRequest, file: Path, to: Path, address: str | None) -> int:
    """Continue every prompt of a file; each record with its `text`, in the prompts' order, goes to `to`. Their number.

    An actor has a CPU, or a GPU where the cluster has some; there are as many as there are of these.

    Raises:
        ClusterError: the prompts cannot be read, or no cluster answers at the address.
        TrainError, ModelError, DataError: what opening the model raises.
    """
    records = read_records(file, PROMPT)
    check_place(place, request)
    if address is not None:
        check_address(address)
    with ray_session(address, os.cpu_count() or 1):
        texts = dict(_continue(place, request, [record[PROMPT] for record in records]))
    write_records(to, ({**record, TEXT: texts[row]} for row, record in enumerate(records)))
    return len(records)


def _continue(place: ModelPlace, request: TextRequest, prompts: list[str]) -> Iterable[tuple[int, str]]:
    """(number, text) of each prompt, in whatever order they are made. Ray is joined."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # it tells of its plans
    gpus = cluster_total("GPU")
    batches = -(-len(prompts) // ROWS_AT_ONCE)
    actors = max(1, min(batches, gpus or cluster_total("CPU")))
    items = [{"row": row, PROMPT: prompt} for row, prompt in enumerate(prompts)]
    # A block for each batch, made here: a task that cut the file would wait for the CPUs that the actors have.
    made = ray.data.from_items(items, override_num_blocks=batches).map_batches(
        Writer,
        fn_constructor_args=(place, request),
        batch_size=ROWS_AT_ONCE,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=0 if gpus else 1,
        num_gpus=1 if gpus else 0,
    )
    for row in made.iter_rows():
        yield int(row["row"]), str(row[TEXT])
