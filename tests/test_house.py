"""The rules of the house, read off the syntax trees: who imports whom, who owns which library, sizes, annotations."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "trainer", "data_shards", "model", "monitoring")
MAY_IMPORT = {
    "cluster": {"trainer", "data_shards", "model", "monitoring"},
    "trainer": {"data_shards", "model", "monitoring"},
    "data_shards": set(),
    "model": set(),
    "monitoring": set(),
}
OWNERS = {"ray": "cluster", "deepspeed": "trainer", "mlflow": "monitoring", "webdataset": "data_shards"}
# These run where neither Ray nor torch is imported, and are tested so.
STANDARD_LIBRARY_ONLY = (
    *("supervisor", "supervision", "coordinator", "coordinator_server", "zygote", "zygote_client", "heartbeat"),
    *("rank_process", "rank_watch", "fence", "gang_journal", "out_of_memory", "policy"),
    *("snapshot_keeper", "snapshot_keeper_client", "snapshot_keeper_copier", "snapshot_keeper_holders"),
    *("snapshot_keeper_memory", "snapshot_keeper_peers", "snapshot_keeper_store", "snapshot_keeper_wire"),
)
LONGEST_FUNCTION, MEDIAN_FUNCTION, LONGEST_FILE = 60, 12, 400

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name to syntax tree, of all five packages."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {names[path]: ast.parse(path.read_text()) for path in paths}


def imports(tree: ast.AST) -> set[str]:
    """Dotted names that a tree imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def functions_of(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node.name, node


def functions() -> Iterator[tuple[str, Function]]:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{name}:{node.lineno} {node.name}", node


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_what_lies_below_it(package: str) -> None:
    for name, tree in modules().items():
        if name.split(".")[0] == package:
            others = {found.split(".")[0] for found in imports(tree)} & (set(PACKAGES) - {package})
            assert others <= MAY_IMPORT[package], name


@pytest.mark.parametrize(("library", "owner"), OWNERS.items())
def test_library_is_imported_by_its_owner_alone(library: str, owner: str) -> None:
    users = {
        name.split(".")[0]
        for name, tree in modules().items()
        if library in {found.split(".")[0] for found in imports(tree)}
    }
    assert users == {owner}


def own_imports(name: str) -> set[str]:
    """Dotted names that importing a module of ours imports, without what functions import when they are called, and
    what is there for annotations alone."""
    tree = modules()[name]
    inner = [body for _, body in functions_of(tree)]
    inner += [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = {id(node) for part in inner for node in ast.walk(part)}
    top = [
        node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in left_out
    ]
    return {found for node in top for found in imports(node)}


def imported_at_start(module: str) -> set[str]:
    """Our own modules that importing one imports, directly or not."""
    trees, seen, waiting = modules(), set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in trees:
            continue
        seen.add(name)
        waiting += own_imports(name)
    return seen


DRIVER = ("cluster.drive", "cluster.session", "cluster.cli", "trainer.carried_code")
TRAINED = (
    *("trainer.evaluate", "trainer.scoring", "trainer.multiple_choice", "trainer.classification_report"),
    *("trainer.language_model", "trainer.text_classifier", "trainer.trained", "trainer.harness"),
)
"""What users ask of a trained model goes through these."""


@pytest.mark.parametrize("module", [*DRIVER, *TRAINED])
def test_driver_and_trained_models_do_without_deepspeed_which_takes_seconds_and_writes_to_stdout(module: str) -> None:
    owners = [
        name
        for name in imported_at_start(module)
        if any(found.startswith("deepspeed") for found in imports(modules()[name]))
    ]
    assert owners == []


@pytest.mark.parametrize("module", DRIVER)
def test_driver_loads_torch_only_where_a_run_file_asks_for_it(module: str) -> None:
    users = [name for name in imported_at_start(module) if "torch" in {top.split(".")[0] for top in own_imports(name)}]
    assert users == []


def test_modules_have_no_import_cycles() -> None:
    graph = {name: imports(tree) & modules().keys() - {name} for name, tree in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_gang_machinery_needs_the_standard_library_alone(name: str) -> None:
    heavy = {"ray", "torch", "deepspeed", "mlflow", "numpy", "pydantic", "trainer.config"}
    assert not imports(modules()[f"cluster.{name}"]) & heavy


def test_functions_are_short() -> None:
    lengths = {place: length(function) for place, function in functions()}
    assert {place: lines for place, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION


def test_files_are_short_and_package_files_empty() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= LONGEST_FILE, path
            assert path.name != "__init__.py" or lines == 0, path


def test_public_functions_and_classes_have_docstrings() -> None:
    bare = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in modules().items()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []
