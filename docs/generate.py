"""Writes docs/run-file.md from the settings models: `make docs`. A test holds the file current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.settings import ClusterSettings
from trainer.config import RunConfig

PATH = Path(__file__).parent / "run-file.md"

HEAD = """# The run file

One YAML file is one run. Unknown fields are refused, and every field can be overridden on the command line with
`--set section.field=value`. Relative paths are relative to the run file's folder. This page is generated from the
models (`make docs`).
"""


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _type_name(parts[0])
    if isinstance(annotation, type) and not parts:
        return annotation.__name__
    if all(isinstance(part, (str, int)) for part in parts):
        return " \\| ".join(str(part) for part in parts)
    if getattr(annotation, "__origin__", None) in (tuple, dict, list):
        inner = ", ".join(dict.fromkeys(_type_name(part) for part in parts if part is not Ellipsis))
        return f"{annotation.__origin__.__name__} of {inner}".replace("tuple", "list")
    return " \\| ".join(_type_name(part) for part in parts)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "derived" if (field.description or "").count("default:") else "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "null"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _below(name: str, key: str, model: type[BaseModel], models: list[type[BaseModel]]) -> str:
    """The heading of a section below another; where it may be one of several, with the one's name."""
    heading = key if name == "The top level" else f"{name}.{key}"
    return heading if len(models) == 1 else f"{heading}: {_words(model.__name__)}"


def _words(name: str) -> str:
    """CompletionTask: completion task."""
    return " ".join(re.findall("[A-Z][a-z]+", name)).lower()


def _section(name: str, model: type[BaseModel]) -> list[str]:
    about = " ".join((model.__doc__ or "").split())
    lines = [f"\n## {name}\n", about, "\n| field | type | default | meaning |", "|---|---|---|---|"]
    below: list[str] = []
    for key, field in model.model_fields.items():
        what = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {_type_name(field.annotation)} | {_default(field)} | {what} |")
        for inner in _models(field.annotation):
            below += _section(_below(name, key, inner, _models(field.annotation)), inner)
    if name == "The top level":
        below += _section("cluster", ClusterSettings)
    return lines + below


def render() -> str:
    """The whole page."""
    return HEAD + "\n".join(_section("The top level", RunConfig)) + "\n"


if __name__ == "__main__":
    PATH.write_text(render())
