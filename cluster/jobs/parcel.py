"""What travels with a submitted run: our code, the run file, and the small files of the project that it names.

Never data, runs, secrets or .git: only what is listed here is copied into the folder that is sent.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ClusterError
from cluster.jobs.submitted import RUN_FILE
from cluster.ray_session import PACKAGES
from trainer.config import RunConfig

LARGEST_BYTES = 10_000_000

# Fields that name data, weights, or places to write to.
NEVER_SENT = (
    *("name", "out_dir", "init_from", "checkpoint.dir", "monitoring.tracking_uri", "eval.samples"),
    *("data.sources", "data.val_sources", "data.dir", "data.cache_dir"),
)
SECRETS = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_ed25519*"),
    *("id_ecdsa*", ".netrc", ".pgpass", "*credential*", "*secret*", "*password*", "auth_token", ".git", ".ssh", ".aws"),
)
_CODE = ("*.py", "py.typed")
_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")


@dataclass(frozen=True)
class Parcel:
    """What is sent. code: each package's files; files: name in the parcel to file here; run_file: its text, or empty.

    stays: paths that the run file names and that must be there for the cluster already.
    """

    code: Mapping[str, tuple[Path, ...]]
    files: Mapping[str, Path]
    run_file: str
    stays: tuple[str, ...]

    def lines(self) -> list[str]:
        """What is sent, with sizes, in lines."""
        lines = []
        for package, paths in self.code.items():
            lines.append(f"  code  {package:<12} {len(paths):>4} files {_kilobytes(_bytes(paths))}")
        if self.run_file:
            lines.append(f"  file  {RUN_FILE} {_kilobytes(len(self.run_file.encode()))}")
        lines += [f"  file  {name} {_kilobytes(path.stat().st_size)}" for name, path in self.files.items()]
        return [*lines, *(f"  not sent, every node must see it: {place}" for place in self.stays)]

    def write(self, code_dir: Path, files_dir: Path) -> list[Path]:
        """Copy everything to two folders; the packages' folders."""
        for package, paths in self.code.items():
            for path in paths:
                _copy(path, code_dir / package / path.relative_to(package_dir(package)))
        for name, path in self.files.items():
            _copy(path, files_dir / name)
        files_dir.mkdir(parents=True, exist_ok=True)
        if self.run_file:
            (files_dir / RUN_FILE).write_text(self.run_file, encoding="utf-8")
        return [code_dir / package for package in self.code]


def package_dir(package: str) -> Path:
    """Where a package's code is."""
    return Path(__file__).resolve().parents[2] / package


def code_files() -> dict[str, tuple[Path, ...]]:
    """The code of the packages that travel."""
    found = {name: [p for pattern in _CODE for p in package_dir(name).rglob(pattern)] for name in PACKAGES}
    return {name: tuple(sorted(path for path in paths if path.is_file())) for name, paths in found.items()}


def make_parcel(config: RunConfig, project: Path, run_file: Mapping[str, Any]) -> Parcel:
    """What to send for a run.

    Args:
        project: the run file's folder; run_file: the resolved run file, every path absolute.

    Raises:
        ClusterError: the run file names a file that looks like a secret, or files that are too large together.
    """
    named = dict(_named_files(run_file, project.resolve()))
    files: dict[str, Path] = {}
    for field, place in named.items():
        files |= _files_at(field, place, project.resolve())
    size = _bytes(files.values())
    if size > LARGEST_BYTES:
        listed = ", ".join(f"{field} ({place})" for field, place in named.items())
        raise ClusterError(
            f"the files that the run file names have {size / 1e6:.1f} MB together, and at most "
            f"{LARGEST_BYTES / 1e6:.0f} MB travel with a job: {listed}. Put them where all nodes see them, outside the "
            f"run file's folder."
        )
    document = _rewritten(run_file, named, project.resolve())
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return Parcel(code_files(), files, text, tuple(_places(config)))


def _places(config: RunConfig) -> Iterator[str]:
    yield f"out_dir {config.out_dir}"
    if config.data.dir:
        yield f"data.dir {config.data.dir}"
    yield from (f"data.sources {source.path}" for source in config.data.sources)
    if config.init_from:
        yield f"init_from {config.init_from}"


def _strings(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Dotted field and value of every string that may name a file to send."""
    if field in NEVER_SENT:
        return
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strings(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _strings(inner, f"{field}.{index}")


def _named_files(run_file: Mapping[str, Any], project: Path) -> Iterator[tuple[str, Path]]:
    """Files and folders of the project that fields name by path, and modules named as `module:function`."""
    for field, text in _strings(run_file):
        function = _FUNCTION.fullmatch(text)
        place = project / f"{function[1].replace('.', '/')}.py" if function else Path(text)
        if place.is_absolute() and place.exists() and place.resolve().is_relative_to(project):
            yield field, place


def _files_at(field: str, place: Path, project: Path) -> dict[str, Path]:
    """The files to send for a field, by their names in the parcel; what looks like a secret in a folder stays here."""
    name = place.relative_to(project) if place.is_relative_to(project) else place.resolve().relative_to(project)
    if _is_secret(name):
        raise ClusterError(
            f"{field}: {place} looks like a secret, and those are never sent. Set it in the environment of the nodes, "
            f"or give the file another name."
        )
    if place.is_file():
        return {name.as_posix(): place}
    inside = sorted(path for path in place.rglob("*") if path.is_file())
    return {
        (name / path.relative_to(place)).as_posix(): path
        for path in inside
        if not _is_secret(path.relative_to(place)) and path.resolve().is_relative_to(project)
    }


def _is_secret(name: Path) -> bool:
    return any(fnmatch(part.lower(), pattern) for part in name.parts for pattern in SECRETS)


def _rewritten(value: Any, named: Mapping[str, Path], project: Path, field: str = "") -> Any:
    """The document with the paths of files that travel relative to the run file."""
    if isinstance(value, Mapping):
        inner = {name: (f"{field}.{name}" if field else str(name)) for name in value}
        return {name: _rewritten(value[name], named, project, below) for name, below in inner.items()}
    if isinstance(value, list | tuple):
        return [_rewritten(inner, named, project, f"{field}.{index}") for index, inner in enumerate(value)]
    if field in named and not _FUNCTION.fullmatch(value):
        place = named[field]
        relative = place if place.is_relative_to(project) else place.resolve()
        return relative.relative_to(project).as_posix()
    return value


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _bytes(paths: Any) -> int:
    return sum(path.stat().st_size for path in paths)


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:,.1f} kB"
