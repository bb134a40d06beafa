"""Files of records that commands read and write: JSON lines, and lines of plain text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from data_shards.json_lines import field_of


def read_records(path: Path, *fields: str) -> list[dict[str, Any]]:
    """The records of a .jsonl file as they are, or a record for each line of a .txt file, where one field is asked for.

    fields: what each must hold a text in; a.b is nested.

    Raises:
        ClusterError: the file cannot be read or has no record, or one has no text in a field; it names the line.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise ClusterError(f"--file {path}: must end in .txt (a {fields[0]} a line) or .jsonl (records); rename it.")
    if path.suffix == ".txt" and len(fields) > 1:
        raise ClusterError(f"--file {path}: must be a .jsonl, since a record has {' and '.join(fields)}; convert it.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"--file {path}: cannot be read ({error}); give a file in UTF-8.") from error
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ClusterError(f"--file {path}: has no {fields[0]}; give at least one line.")
    if path.suffix == ".txt":
        return [{fields[0]: line} for _, line in numbered]
    return [_record(line, fields, f"{path}:{number}") for number, line in numbered]


def text_of(record: Mapping[str, Any], field: str) -> str | None:
    """The text in a field of a record, a.b being nested; None where there is none."""
    value, _ = field_of(record, field)
    return value if isinstance(value, str) else None


def _record(line: str, fields: Iterable[str], where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ClusterError(f"{where}: must be JSON ({error}); correct the line.") from error
    for field in fields:
        if not isinstance(record, dict) or text_of(record, field) is None:
            raise ClusterError(f'{where}: must be an object with a text in "{field}", found {line:.80}; add the field.')
    checked: dict[str, Any] = record
    return checked


def write_records(to: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """A JSON object a line; the file appears whole. Raises ClusterError if it cannot be written."""
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            temporary.replace(to)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ClusterError(f"--to {to}: cannot be written ({error}); give a file that you can write.") from error
