"""Many prompts of a file, continued on Ray Data: an actor loads the model once and takes batch after batch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import ClusterError
from cluster.ray_session import check_address, cluster_total, ray_session
from trainer.language_model import ModelPlace, TextRequest, check_place, open_language_model

ROWS_AT_ONCE = 16
PROMPT = "prompt"
TEXT = "text"


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """A record with the field `prompt` for each line of a .txt file, or the records of a .jsonl file as they are.

    Raises:
        ClusterError: the file cannot be read or has no prompt, or a record has none; it names the line.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise ClusterError(f"--file {path}: must end in .txt (a prompt a line) or .jsonl (records); rename it.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"--file {path}: cannot be read ({error}); give a file of prompts in UTF-8.") from error
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ClusterError(f"--file {path}: has no prompt; give at least one line.")
    if path.suffix == ".txt":
        return [{PROMPT: line} for _, line in numbered]
    return [_record(line, f"{path}:{number}") for number, line in numbered]


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ClusterError(f"{where}: must be JSON ({error}); correct the line.") from error
    if not isinstance(record, dict) or not isinstance(record.get(PROMPT), str):
        raise ClusterError(f'{where}: must be an object with a text in "prompt", found {line:.80}; add the field.')
    return record


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
    records = read_prompts(file)
    check_place(place)
    if address is not None:
        check_address(address)
    with ray_session(address, os.cpu_count() or 1):
        texts = dict(_continue(place, request, [record[PROMPT] for record in records]))
    _write(to, ({**record, TEXT: texts[row]} for row, record in enumerate(records)))
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


def _write(to: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """A JSON object a line; the file appears whole."""
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as out:
            for record in records:
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
        temporary.replace(to)
    except OSError as error:
        raise ClusterError(f"--to {to}: cannot be written ({error}); give a file that you can write.") from error
    finally:
        temporary.unlink(missing_ok=True)
