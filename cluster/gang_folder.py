"""A gang's folder in the run's: where its workers are, and how it ended.

Each gang has a folder of its own, OUT_DIR/gangs/ID, which goes when the gang has ended: what a worker of an older gang
writes late is lost, and never taken for the newer one's.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a worker of the gang is: its rank, its node's id in Ray and address, and its process."""

    rank: int
    node_id: str
    address: str
    pid: int


@dataclass(frozen=True)
class Verdict:
    """How a gang ended, as its rank 0 saw it. status: `finished`, `stopped` or `failed`.

    kind, of a failure, as in cluster.restarts.GangEnded; rank: the one that it came from, where that is known.
    """

    status: str
    kind: str = ""
    text: str = ""
    rank: int | None = None


class GangFolder:
    """The folder, by its path; only the driver makes and removes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_place(self, place: Place) -> None:
        """Tell where a worker is; OSError once the gang is over."""
        self._write(f"rank-{place.rank:04d}.json", dataclasses.asdict(place))

    def places(self) -> tuple[Place, ...]:
        """Those that have told where they are, by rank; without those that go while they are read."""
        try:
            paths = sorted(self.path.glob("rank-*.json"))
        except OSError as error:
            logger.debug("the gang's folder is gone: %s", error)
            return ()
        return tuple(place for place in map(_read_place, paths) if place is not None)

    def write_verdict(self, verdict: Verdict) -> None:
        """Tell how the gang ended; OSError once it is over."""
        self._write("verdict.json", dataclasses.asdict(verdict))

    def verdict(self) -> Verdict | None:
        """How the gang ended, if rank 0 could tell."""
        try:
            return Verdict(**json.loads((self.path / "verdict.json").read_text()))
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Remove the folder, though a worker of the gang may still write to it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        draft = self.path / f".{name}"
        draft.write_text(json.dumps(values))
        draft.replace(self.path / name)


def new_gang_folder(out_dir: Path, gang_id: str) -> GangFolder:
    """Make a gang's folder; those of gangs that a killed driver left are removed."""
    shutil.rmtree(out_dir / "gangs", ignore_errors=True)
    path = out_dir / "gangs" / gang_id
    path.mkdir(parents=True)
    return GangFolder(path)


def _read_place(path: Path) -> Place | None:
    try:
        return Place(**json.loads(path.read_text()))
    except OSError as error:  # the gang is over, and its folder is being removed
        logger.debug("%s cannot be read: %s", path, error)
        return None
