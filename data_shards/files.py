"""Files that appear whole or not at all."""

import os
import uuid
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses; what is left of it after a crash starts with `.tmp-`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex}")


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` with `data`: temporary name, sync, rename, sync of the folder."""
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_atomically(path: Path, data: bytes) -> bool:
    """Make `path` with `data` unless it is there; False if it is. Of several that try at once one succeeds."""
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True
