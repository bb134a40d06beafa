"""Which checkpoints are removed: the old ones, never the last two good ones, never one that is being read."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint.storage import open_storage
from trainer.checkpoint.store import (
    Entry,
    checkpoints_address,
    incomplete_folders,
    list_checkpoints,
    quick_problems,
)

MIN_KEEP = 2


def prune(out_dir: Path, address: str | None = None, *, keep: int, attempt: int) -> list[str]:
    """Remove what is older than the newest `keep` good checkpoints (at least two are kept); the names of what went.

    Good means here: readable manifest, all files there with the right sizes. Folders without a manifest go if an
    attempt before `attempt` left them and a newer checkpoint is complete. What does not count (see `fence`) goes.
    What somebody reads stays until a later time.
    """
    storage = open_storage(checkpoints_address(out_dir, address))
    entries = list_checkpoints(out_dir, address)
    counted = [entry for entry in entries if entry.is_believed and entry.manifest]
    good = [entry for entry in counted if entry.manifest and not quick_problems(storage, entry.name, entry.manifest)]
    doomed = doomed_folders(entries, good, incomplete_folders(out_dir, address), keep=keep, attempt=attempt)
    return [name for name in doomed if storage.remove(name)]


def doomed_folders(
    entries: list[Entry], good: list[Entry], incomplete: list[Entry], *, keep: int, attempt: int
) -> list[str]:
    """Names of the folders to remove, of lists in the order of time. Pure."""
    kept = good[-max(keep, MIN_KEEP) :]
    doomed = [entry.name for entry in entries if not entry.is_believed]
    if len(kept) >= MIN_KEEP:
        doomed += [entry.name for entry in entries if entry.is_believed and entry.order < kept[0].order]
    if good:
        doomed += [torn.name for torn in incomplete if torn.attempt < attempt and torn.order < good[-1].order]
    return doomed
