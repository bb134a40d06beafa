"""The manifest of a checkpoint: what it holds and the size and hash of every file. It is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint.files import HASHES
from trainer.checkpoint.fragments import Span
from trainer.errors import TrainError

VERSION = 2
READABLE = (1, 2)
"""1 had a SHA-256 for each file; 2 names the hash."""
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Header:
    """Where the run stood at the save. `loader` and `settings` are plain JSON objects; `rng` is a note for readers;
    `stage` is that of the optimizer's moments."""

    run_id: str
    attempt: int
    step: int
    tokens: int
    world_size: int
    zero_stage: int
    precision: str
    loader: Mapping[str, Any]
    settings: Mapping[str, Any]
    rng: str = ""
    stage: int = 0


@dataclass(frozen=True)
class SavedSpan:
    """A span in a file, with the optimizer's count of updates to it."""

    span: Span
    step: float


@dataclass(frozen=True)
class FileRecord:
    """One rank's file: its size, its hash, and the spans in it."""

    name: str
    rank: int
    bytes: int
    digest: str
    spans: tuple[SavedSpan, ...]


@dataclass(frozen=True)
class Manifest:
    """A whole checkpoint. `frozen` and `buffers` give the shapes of the tensors that rank 0's file holds whole."""

    header: Header
    time: float
    shapes: dict[str, tuple[int, ...]]
    frozen: dict[str, tuple[int, ...]]
    buffers: dict[str, tuple[int, ...]]
    loss_scale: dict[str, Any] | None
    files: tuple[FileRecord, ...]

    @property
    def step(self) -> int:
        return self.header.step

    @property
    def bytes(self) -> int:
        """Size of all files together, without the manifest."""
        return sum(record.bytes for record in self.files)

    @property
    def settings_digest(self) -> str:
        return digest_of(self.header.settings)


def digest_of(value: object) -> str:
    """SHA-256, in hexadecimal, of a JSON value in its canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def render(manifest: Manifest) -> bytes:
    """The manifest as JSON text. It carries its own hash, so that a changed digit in it is found out."""
    body: dict[str, Any] = {
        "version": VERSION,
        **asdict(manifest.header),
        "settings_digest": manifest.settings_digest,
        "time": manifest.time,
        "loss_scale": manifest.loss_scale,
        "optimizer_steps": _steps_by_parameter(manifest),
        "shapes": {name: list(shape) for name, shape in manifest.shapes.items()},
        "frozen": {name: list(shape) for name, shape in manifest.frozen.items()},
        "buffers": {name: list(shape) for name, shape in manifest.buffers.items()},
        "files": [record_to_dict(record) for record in manifest.files],
    }
    body = json.loads(json.dumps(body))
    return json.dumps({**body, "sha256": digest_of(body)}, indent=1).encode()


def parse(text: bytes, path: Path | str) -> Manifest:
    """The manifest in `text`, read from `path`. Raises TrainError, naming `path`, if it is damaged or unknown."""
    try:
        body = json.loads(text)
    except ValueError as error:
        raise TrainError(f"{path}: the manifest is no JSON ({error}); use another checkpoint") from error
    if not isinstance(body, dict) or body.pop("sha256", None) != digest_of(body):
        raise TrainError(f"{path}: the manifest does not match its own hash, it is damaged; use another checkpoint")
    if body.get("version") not in READABLE:
        known, found = " or ".join(map(str, READABLE)), body.get("version")
        raise TrainError(f"{path}: field version must be {known}, found {found!r}; load it with the version it is of")
    try:
        return _from_dict(body)
    except (KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{path}: the manifest lacks a field or has a wrong one ({error!r})") from error


def _steps_by_parameter(manifest: Manifest) -> dict[str, float]:
    return {saved.span.name: saved.step for record in manifest.files for saved in record.spans}


def record_to_dict(record: FileRecord) -> dict[str, Any]:
    """A file's record as plain JSON values."""
    spans = [[s.span.name, s.span.start, s.span.length, s.step] for s in record.spans]
    return {
        "name": record.name,
        "rank": record.rank,
        "bytes": record.bytes,
        "digest": record.digest,
        "fragments": spans,
    }


def record_from_dict(body: dict[str, Any]) -> FileRecord:
    """A file's record back from `record_to_dict`. KeyError, TypeError or ValueError where it is none."""
    name = body["name"]
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"files: a name must be a plain file name, found {name!r}")
    spans = tuple(SavedSpan(Span(name, start, length), step) for name, start, length, step in body["fragments"])
    digest = body["digest"] if "digest" in body else f"sha256:{body['sha256']}"  # as before there was a choice
    if digest.partition(":")[0] not in HASHES:
        raise ValueError(f"files: a digest must begin with one of {', '.join(HASHES)}, found {digest[:20]!r}")
    return FileRecord(name, body["rank"], body["bytes"], digest, spans)


def _from_dict(body: dict[str, Any]) -> Manifest:
    header = Header(**{field: body[field] for field in Header.__dataclass_fields__ if field in body})
    return Manifest(
        header=header,
        time=body["time"],
        shapes={name: tuple(shape) for name, shape in body["shapes"].items()},
        frozen={name: tuple(shape) for name, shape in body["frozen"].items()},
        buffers={name: tuple(shape) for name, shape in body["buffers"].items()},
        loss_scale=body["loss_scale"],
        files=tuple(record_from_dict(record) for record in body["files"]),
    )
