"""Finding the model that a command is about."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.find import find_run_folder
from trainer.language_model import ModelPlace


def find_model(text: str, runs_dir: Path | None) -> ModelPlace:
    """What RUN, RUN@STEP or a folder in Hugging Face layout (one with a config.json) means.

    Raises:
        MonitoringError: there is no such run, or there are several.
    """
    folder = Path(text)
    if (folder / "config.json").is_file() and not (folder / "run.json").is_file():
        return ModelPlace(folder.absolute(), is_run=False)
    at_step = re.fullmatch(r"(.+)@(\d+)", text)
    name, step = (at_step[1], int(at_step[2])) if at_step else (text, None)
    return ModelPlace(find_run_folder(name, runs_dir).out_dir.absolute(), is_run=True, step=step)
