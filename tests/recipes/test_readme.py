"""What recipes/README.md names exists: files, commands, run files that load, fields of the run file."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from cluster.cli import build_parser
from trainer.config import load_run_file

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
TEXT = (RECIPES / "README.md").read_text(encoding="utf-8")
FOR_GPUS = re.findall(r"recipes/([\w.-]+\.yaml)", (ROOT / "docs/gpu.md").read_text())
RUN_FILES = sorted(path for path in RECIPES.glob("*.yaml") if path.name not in FOR_GPUS)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
MADE = ("recipes/runs/", "recipes/corpus/mails/", "recipes/corpus/newsgroups/", "recipes/corpus/reviews/")
"""What commands make, and git does not keep."""


def named_files(words: list[str]) -> list[str]:
    """Paths of the repository in a command: what it reads and writes, but for what other commands make."""
    paths = [word for word in words if word.startswith("recipes/")]
    return [path for path in paths if not path.startswith(MADE)]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_readme_parses_and_its_files_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(command)
    for path in named_files(words):
        assert (ROOT / path).exists(), path
    if program == "headrace":
        assert callable(build_parser().parse_args(words).handler)
    else:
        assert (program, words[0]) == ("python", "-m")
        module = importlib.import_module(words[1])
        with pytest.raises(SystemExit) as asked:  # --help says which arguments there are
            module.main([*words[2:], "--help"])
        assert asked.value.code == 0 and "usage:" in capsys.readouterr().out
        options = {word for word in words[2:] if word.startswith("--")}
        assert all(option in Path(str(module.__file__)).read_text() for option in options)


def test_every_recipe_has_its_place_in_the_readme() -> None:
    assert [path.name for path in RUN_FILES if f"`{path.name}`" not in TEXT] == []
    scripts = [path.stem for path in (RECIPES / "data").glob("*.py") if "__main__" in path.read_text()]
    assert [name for name in scripts if f"recipes.data.{name}" not in TEXT] == []


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_recipe_is_a_run_file_on_two_workers_in_its_own_folder(path: Path) -> None:
    config = load_run_file(path)
    assert config.cluster["workers"] == 2
    assert config.out_dir == str(RECIPES / "runs" / path.stem)


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links and [link for link in links if not (RECIPES / link).exists()] == []
