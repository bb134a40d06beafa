"""The folder of a Hugging Face dataset, left by `save_to_disk` or the datasets' cache: which files hold its rows."""

from __future__ import annotations

import json
import logging
from typing import Any

from data_shards.errors import DataError
from data_shards.source_files import FileState, find, is_folder, read_bytes

logger = logging.getLogger(__name__)

_SPLITS_FILE = "dataset_dict.json"
_STATE_FILE = "state.json"
_INFO_FILE = "dataset_info.json"
_TRAIN = "train"
# Results of map and filter that lie beside the data.
_CACHE_PREFIXES = ("cache-", "tmp")


def data_files(folder: str, setting: str) -> dict[str, FileState] | None:
    """The Arrow files with the rows of a dataset, in order, with their states; None if the folder holds no dataset.

    Of several splits, `train` is taken, and said so. Raises DataError, for `setting`, where there is none of that
    name, where the rows are chosen by an index that lies apart, or where a file of the dataset is missing.
    """
    folder = folder.rstrip("/")
    splits = _read_json(f"{folder}/{_SPLITS_FILE}")
    if splits is not None:
        return data_files(_train_folder(folder, splits, setting), setting)
    state = _read_json(f"{folder}/{_STATE_FILE}")
    if state is not None:
        return _files_of_state(folder, state, setting)
    info = _read_json(f"{folder}/{_INFO_FILE}")
    return None if info is None else _files_of_cache(folder, info, setting)


def _train_folder(folder: str, splits: Any, setting: str) -> str:
    names = splits.get("splits", []) if isinstance(splits, dict) else []
    if _TRAIN not in names:
        raise DataError(
            f"{setting}: {folder} holds the splits {', '.join(map(str, names)) or 'none'}: give the folder of one, "
            f"such as {folder}/{names[0] if names else 'NAME'}"
        )
    if len(names) > 1:
        logger.info("%s: the split %s is taken of %s", folder, _TRAIN, ", ".join(names))
    return f"{folder}/{_TRAIN}"


def _files_of_state(folder: str, state: Any, setting: str) -> dict[str, FileState]:
    if not isinstance(state, dict) or not isinstance(state.get("_data_files"), list):
        raise DataError(f"{folder}/{_STATE_FILE}: names no data files: save the dataset anew with save_to_disk")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(
            f"{setting}: the rows of {folder} are chosen by an index apart from the data: save the dataset anew after "
            "flatten_indices()"
        )
    paths = [f"{folder}/{row['filename']}" for row in state["_data_files"] if isinstance(row, dict)]
    return _present(paths, folder, setting)


def _files_of_cache(folder: str, info: Any, setting: str) -> dict[str, FileState]:
    paths = [path for path in find(f"{folder}/*.arrow") if not _name(path).startswith(_CACHE_PREFIXES)]
    splits = info.get("splits") if isinstance(info, dict) else None
    if splits and len(splits) > 1:
        paths = [path for path in paths if f"-{_TRAIN}-" in _name(path) or _name(path).endswith(f"-{_TRAIN}.arrow")]
        logger.info("%s: the split %s is taken of %s", folder, _TRAIN, ", ".join(splits))
    return _present(paths, folder, setting)


def _present(paths: list[str], folder: str, setting: str) -> dict[str, FileState]:
    if not paths:
        raise DataError(f"{setting}: {folder} is a Hugging Face dataset without data files: save it anew")
    present: dict[str, FileState] = {}
    for path in paths:
        found = find(path)
        if not found:
            raise DataError(f"{setting}: {path} is missing, and the dataset in {folder} needs it: restore it")
        present.update(found)
    return present


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _read_json(path: str) -> Any:
    if is_folder(path) or not find(path):
        return None
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}): save the dataset anew") from error
