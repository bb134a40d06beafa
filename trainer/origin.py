"""`init_from`: where a run's first weights come from, as a run file names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.errors import ModelError
from model.huggingface_config import read_folder_config
from model.settings import settings_of
from trainer.errors import TrainError

_WITH_STEP = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class Origin:
    """A folder in Hugging Face's layout, or the folder of a run and perhaps the step of one of its checkpoints."""

    folder: Path
    step: int | None = None

    @property
    def is_run(self) -> bool:
        """Whether it is a run's folder."""
        return (self.folder / "run.yaml").is_file()

    def __str__(self) -> str:
        return str(self.folder) + ("" if self.step is None else f"@{self.step}")


def parse_origin(text: str) -> Origin:
    """From FOLDER or FOLDER@STEP; a folder that is there counts as a whole, whatever its name."""
    match = None if Path(text).is_dir() else _WITH_STEP.fullmatch(text)
    return Origin(Path(text)) if match is None else Origin(Path(match[1]), int(match[2]))


def resolve_origin(text: str, base: Path, out_dir: Path) -> str:
    """With the folder absolute: against `base`, or, where only that is there, beside the run's own folder.

    Raises:
        TrainError: an address of an object store.
    """
    if "://" in text:
        raise TrainError(
            f"init_from: {text} must be a folder in Hugging Face layout, or RUN or RUN@STEP, in a file system: each "
            "rank maps the files and reads its own part of each parameter, which an object store cannot serve. Copy "
            "the folder to one that all nodes see, and give its path."
        )
    given = parse_origin(str((base / Path(text).expanduser()).resolve()))
    beside = parse_origin(str(out_dir.parent / text))
    return str(beside if beside.folder.is_dir() and not given.folder.is_dir() else given)


def model_section(text: str) -> dict[str, Any]:
    """The `model:` section of a run file whose model is the origin's.

    Raises:
        TrainError: there is neither a model in Hugging Face's layout nor a run.
    """
    origin = parse_origin(text)
    if origin.is_run:
        section: dict[str, Any] = yaml.safe_load((origin.folder / "run.yaml").read_text(encoding="utf-8"))["model"]
        return section
    if not (origin.folder / "config.json").is_file():
        raise absent(origin)
    try:
        return settings_of(read_folder_config(origin.folder)[1])
    except ModelError as error:
        raise TrainError(f"init_from: {error}") from error


def absent(origin: Origin) -> TrainError:
    """What is said where an origin is not there."""
    return TrainError(
        f"init_from: {origin.folder} must be a folder with config.json (Hugging Face layout) or with run.yaml (a run), "
        "and is neither. Correct the path, or leave init_from out to start from random weights."
    )
