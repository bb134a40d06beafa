"""A function that a run file names as `module:function`: found, checked and loaded.

Where the run file's folder has MODULE.py, that file alone is loaded, by its path: nothing is put on Python's path, so
that no file of a user's folder stands in for a library's. Elsewhere MODULE is an installed module.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from data_shards.errors import DataError

NAMED = re.compile(r"(?P<module>[^:].*):(?P<function>[A-Za-z_]\w*)")
_SHOWN_DIGITS = 12

Function = Callable[..., Any]


def is_named(text: str) -> bool:
    """Whether a text is of the form `module:function`."""
    return NAMED.fullmatch(text) is not None


def resolve_name(text: str, base: Path) -> str:
    """With the module's file, absolute, in place of its name where `base`, the run file's folder, has one."""
    module, _, function = text.rpartition(":")
    if module.endswith(".py"):
        return f"{(base.absolute() / Path(module).expanduser()).resolve()}:{function}"
    file = base.absolute() / (module.replace(".", "/") + ".py")
    return f"{file.resolve()}:{function}" if file.is_file() else text


def load_function(text: str, field: str) -> Function:
    """The function that a resolved text names.

    Raises:
        DataError: the module is not there or cannot be imported, or has no such function; `field` is named.
    """
    module_text, _, name = text.rpartition(":")
    module = _load_module(module_text, field)
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, [key for key in vars(module) if not key.startswith("_")], n=1)
        hint = f"did you mean {near[0]}?" if near else "correct the name, or define it there"
        raise DataError(f"{field}: {module_text} must have a function {name}, and has none: {hint}")
    if not callable(found):
        raise DataError(f"{field}: {text} must be a function, found {type(found).__name__} {found!r}: name a function")
    function: Function = found
    return function


def module_digest(text: str, field: str) -> str:
    """SHA-256, in hex, of the source of the module that a resolved text names; DataError as `load_function`."""
    module_text = text.rpartition(":")[0]
    file = getattr(_load_module(module_text, field), "__file__", None)
    return _digest(Path(file)) if file else hashlib.sha256(module_text.encode()).hexdigest()


def carry(text: str, folder: Path, field: str) -> str:
    """A resolved text whose module's file, if it has one, is a copy in `folder`, which other machines see too.

    A file of another content gets another name. Raises DataError where the file cannot be read or copied.
    """
    module_text, _, function = text.rpartition(":")
    if not _is_file(module_text) or Path(module_text).parent == folder:
        return text
    try:
        data = Path(module_text).read_bytes()
        copy = folder / f"{Path(module_text).stem}-{hashlib.sha256(data).hexdigest()[:_SHOWN_DIGITS]}.py"
        folder.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            draft = copy.with_suffix(".tmp")
            draft.write_bytes(data)
            draft.replace(copy)
    except OSError as error:
        raise DataError(
            f"{field}: {module_text} cannot be copied to {folder} ({error.strerror}): correct it"
        ) from error
    return f"{copy}:{function}"


def place_of(error: BaseException) -> str:
    """File and line where an exception of a user's function was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "an unknown place"


def _is_file(module_text: str) -> bool:
    return module_text.endswith(".py")


def _load_module(module_text: str, field: str) -> ModuleType:
    try:
        if _is_file(module_text):
            return _load_file(module_text, _digest(Path(module_text)))
        return importlib.import_module(module_text)
    except OSError as error:
        raise DataError(
            f"{field}: {module_text} cannot be read ({error.strerror}): restore the file, or correct the name"
        ) from error
    except ModuleNotFoundError as error:
        raise DataError(_not_found(module_text, field, error)) from error
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        where = f"{error.filename}, line {error.lineno}" if isinstance(error, SyntaxError) else place_of(error)
        raise DataError(f"{field}: {module_text} cannot be imported ({said}; {where}): correct it") from error


def _not_found(module_text: str, field: str, error: ModuleNotFoundError) -> str:
    if error.name is not None and (module_text == error.name or module_text.startswith(f"{error.name}.")):
        return (
            f"{field}: no module {module_text}: it must be a file {module_text.replace('.', '/')}.py beside the run "
            "file, or be installed"
        )
    return (
        f"{field}: {module_text} imports {error.name}, which is not installed (a file beside it is not found either): "
        "install it, or put all into one file"
    )


@lru_cache
def _load_file(path: str, digest: str) -> ModuleType:
    """The module in a file, once for each content; under a name that no other module has."""
    name = f"headrace_named_{Path(path).stem}_{digest[:_SHOWN_DIGITS]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
