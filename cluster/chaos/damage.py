"""Damage to a run's newest checkpoint, as disks and people do it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trainer.checkpoint.store import list_checkpoints


def damage_newest(out_dir: Path, kind: str, byte: int | None) -> tuple[str, str] | None:
    """Cut, flip or lose the newest checkpoint; what was done and the checkpoint's path. None if there is none.

    byte: from where the largest file is cut or in which one bit is flipped, modulo its size; half way if not given.
    """
    entries = [entry for entry in list_checkpoints(out_dir) if entry.is_believed]
    if not entries:
        return None
    folder = Path(entries[-1].address)
    if kind == "lose_checkpoint":
        shutil.rmtree(folder)
        return f"{folder.name}, the whole folder", str(folder)
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.stat().st_size, path))
    size = path.stat().st_size
    place = size // 2 if byte is None else byte % size
    if kind == "cut_checkpoint":
        os.truncate(path, place)
        return f"{folder.name}/{path.name} from byte {place:,} on", str(folder)
    _flip(path, place)
    return f"{folder.name}/{path.name}, a bit of byte {place:,}", str(folder)


def _flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        [value] = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1]))
