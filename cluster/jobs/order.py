"""What a job's entry process is to do: a file in the folder that travels, beside the run file and what it names.

It travels there and not on the entry's command line or in its environment, which every page of Ray's shows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.jobs.ticket import Ticket, ticket_from_dict

ORDER_FILE, FILES_DIR = "order.json", "files"

START_FILE = "start.sh"
ENTRYPOINT = f"exec sh ./{START_FILE}"
# The job server has a shell start the entry, with the PATH that Ray was started with. The shell's parent is a worker of
# Ray, whose interpreter is found by the place of Ray's library. -P: nothing in the working folder shadows our packages.
START_SCRIPT = """#!/bin/sh
maps=/proc/$PPID/maps
python=$(sed -n 's|.* \\(/.*\\)/lib/python3[^/]*/site-packages/ray/_raylet.so$|\\1/bin/python|p' "$maps" | head -n 1)
[ -x "$python" ] || python=python
exec "$python" -P -m cluster.jobs.entry
"""


@dataclass(frozen=True)
class RunOrder:
    """Train a run. address: of the job server, as its users reach it; commit: of the project, for the run's tags.

    resumes: by the files that an earlier submission left in the run's folder.
    """

    ticket: Ticket
    address: str
    commit: str | None = None
    accept_changes: bool = False
    resumes: bool = False


@dataclass(frozen=True)
class Errand:
    """Run one of our modules, for a user whose machine does not see the run's folder."""

    module: str
    words: tuple[str, ...]


def write_order(folder: Path, order: RunOrder | Errand) -> None:
    """Write the order and the script that starts its execution."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "run" if isinstance(order, RunOrder) else "errand"
    (folder / ORDER_FILE).write_text(json.dumps({kind: asdict(order)}))
    (folder / START_FILE).write_text(START_SCRIPT)


def read_order(folder: Path) -> RunOrder | Errand:
    """The order in a folder."""
    values: dict[str, Any] = json.loads((folder / ORDER_FILE).read_text())
    if "run" in values:
        return RunOrder(**{**values["run"], "ticket": ticket_from_dict(values["run"]["ticket"])})
    return Errand(values["errand"]["module"], tuple(values["errand"]["words"]))
