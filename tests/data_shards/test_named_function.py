"""Functions that a run file names: where they are found, and what is said where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.named_function import carry, is_named, load_function, module_digest, resolve_name

FIELD = "callbacks.0"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a:f", True), ("a.b:f", True), ("/x/a.py:f", True), ("a", False), (":f", False), ("a:", False), ("a:2", False)],
)
def test_named_is_a_module_and_a_function(text: str, expected: bool) -> None:
    assert is_named(text) is expected


def test_file_beside_the_run_file_goes_before_a_module_of_that_name(tmp_path: Path) -> None:
    write(tmp_path / "json.py", "def loads(text): return 'mine'")
    text = resolve_name("json:loads", tmp_path)
    assert text == f"{tmp_path}/json.py:loads"
    assert load_function(text, FIELD)("{}") == "mine"
    import json

    assert json.loads("{}") == {}  # and hides nothing
    assert resolve_name("string:capwords", tmp_path) == "string:capwords"
    assert load_function("string:capwords", FIELD)("a b") == "A B"
    assert resolve_name(text, Path("/elsewhere")) == text


def test_module_in_a_folder_is_found_by_its_dotted_name(tmp_path: Path) -> None:
    write(tmp_path / "hooks/early.py", "def f(): return 7")
    assert load_function(resolve_name("hooks.early:f", tmp_path), FIELD)() == 7


def test_file_is_loaded_once_for_each_content_and_its_folder_is_on_no_path(tmp_path: Path) -> None:
    file = write(tmp_path / "count.py", "def f(): return 1")
    before = list(sys.path)
    first = load_function(f"{file}:f", FIELD)
    assert load_function(f"{file}:f", FIELD) is first
    file.write_text("def f(): return 2")
    assert load_function(f"{file}:f", FIELD)() == 2
    assert sys.path == before
    assert "count" not in sys.modules


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("def wacht(): pass", "watch", "must have a function watch, and has none: did you mean wacht?"),
        ("watch = 3", "watch", "must be a function, found int 3"),
        ("import no_such_library", "watch", "imports no_such_library, which is not installed"),
        ("x = 1 / 0", "watch", r"cannot be imported \(ZeroDivisionError: division by zero; .*m.py, line 1\)"),
        ("def f(:", "watch", r"cannot be imported \(SyntaxError: .*m.py, line 1"),
        ("raise SystemExit(3)", "watch", r"cannot be imported \(SystemExit: 3"),
    ],
)
def test_function_that_cannot_be_had_is_refused_by_field_and_reason(
    source: str, name: str, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "m.py", source)
    with pytest.raises(DataError, match=f"^{FIELD}: .*{message}"):
        load_function(f"{file}:{name}", FIELD)


def test_module_that_is_nowhere_is_refused_with_the_places_looked_at(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no module no\.such: it must be a file no/such\.py beside the run file"):
        load_function(resolve_name("no.such:f", tmp_path), FIELD)
    with pytest.raises(DataError, match=r"gone\.py cannot be read \(No such file"):
        load_function(f"{tmp_path}/gone.py:f", FIELD)


def test_carried_file_is_a_copy_by_content_and_an_installed_module_stays(tmp_path: Path) -> None:
    file, folder = write(tmp_path / "m.py", "def f(): return 1"), tmp_path / "out/code"
    first = carry(f"{file}:f", folder, FIELD)
    assert load_function(first, FIELD)() == 1
    assert carry(first, folder, FIELD) == first == carry(f"{file}:f", folder, FIELD)
    assert module_digest(first, FIELD) == module_digest(f"{file}:f", FIELD)
    file.write_text("def f(): return 2")
    assert load_function(carry(f"{file}:f", folder, FIELD), FIELD)() == 2
    assert load_function(first, FIELD)() == 1
    assert len(list(folder.iterdir())) == 2
    assert carry("string:capwords", folder, FIELD) == "string:capwords"
