"""Numbers of attempts, taken atomically in the run's folder: no two attempts of a run ever share one."""

import json
import os
import socket
import time
from pathlib import Path


def take_attempt(out_dir: Path) -> int:
    """Take the next attempt's number (1 is the first) by creating OUT_DIR/attempts/NNNN.json; OSError if it cannot.

    The file names the host, the process and the time. Exclusive creation decides between two that come at once.
    """
    folder = out_dir / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    number = newest_attempt(out_dir) + 1
    while not _create(folder / f"{number:04d}.json"):
        number += 1
    return number


def newest_attempt(out_dir: Path) -> int:
    """The newest attempt's number, 0 if there is none."""
    names = (path.stem for path in (out_dir / "attempts").glob("*.json"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _create(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}, file)
    return True
