"""What SECURITY.md says of the code, read off the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.test_house import imports, modules

ROOT = Path(__file__).parents[1]
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    *("torch.load", "np.load", "numpy.load", "os.system", "os.popen", "eval", "exec"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
}
UNPACKERS = {"extract", "extractall", "unpack_archive"}


def forbidden(tree: ast.AST) -> list[str]:
    """What a module does that SECURITY.md says none does."""
    found = sorted(imports(tree) & UNPICKLERS)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        unsafe_yaml = name == "yaml.load" and given.get("Loader") != "_UniqueKeyLoader"
        if (
            name in FORBIDDEN_CALLS
            or name.rpartition(".")[2] in UNPACKERS
            or unsafe_yaml
            or given.get("shell") == "True"
        ):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "pickle"),
        ("from cloudpickle import loads", "cloudpickle"),
        ("torch.load(path)", "torch.load"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("tar.extractall(folder)", "tar.extractall"),
        ("subprocess.run(text, shell=True)", "subprocess.run"),
    ],
)
def test_code_that_would_run_or_unpack_what_it_reads_is_seen(code: str, what: str) -> None:
    assert forbidden(ast.parse(code)) == [what]


def test_no_module_unpickles_unpacks_or_starts_a_shell() -> None:
    assert {name: found for name, tree in modules().items() if (found := forbidden(tree))} == {}


def test_run_files_loader_is_a_safe_one() -> None:
    import yaml

    from trainer.config import _UniqueKeyLoader

    assert issubclass(_UniqueKeyLoader, yaml.SafeLoader)


def test_pages_that_the_security_page_names_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert "tests/end_to_end/test_secrets.py" in text
    for name in ("tests/end_to_end/test_secrets.py", "cluster/deploy/README.md"):
        assert (ROOT / name).is_file()
