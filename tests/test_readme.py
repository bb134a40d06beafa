"""What the pages promise exists: files behind links, commands with their options, targets, fields of the run file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cluster.cli import build_parser
from docs.generate import render
from trainer.config import load_run_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "recipes/*.md", "recipes/corpus/*.md", "cluster/deploy/**/*.md")
    for path in ROOT.glob(pattern)
)
SECTIONS = ("data", "model", "train", "eval", "checkpoint", "cluster", "monitoring")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FIELD = re.compile(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*)`")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_commands(text: str) -> list[str]:
    """The lines of the blocks for a shell, without comments and job control."""
    lines = [line.split(" #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return [line.removesuffix(" &") for line in lines if line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    places = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [place for place in places if place and not (page.parent / place).exists()] == []


@pytest.mark.parametrize("command", [line for line in shell_commands(README) if line.startswith("headrace ")])
def test_command_of_the_readme_parses(command: str) -> None:
    assert callable(build_parser().parse_args(shlex.split(command)[1:]).handler)


def test_every_command_is_told_of_in_the_readme_or_the_pages() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    [commands] = [action.choices for action in build_parser()._actions if action.metavar == "COMMAND"]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```|``.*?``", "", text, flags=re.MULTILINE | re.DOTALL))
    told = {word for span in [*spans, *shell_commands(README)] for word in re.findall(r"[a-z]+", span)}
    assert [name for name in commands or ["none"] if name not in told] == []


def test_targets_of_the_readme_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"\bmake ([a-z-]+)(?=[`\s])", "\n".join([*blocks(README, ""), *re.findall(r"`[^`]+`", README)]))
    assert {"demo", "test"} <= set(named) <= targets


def test_smallest_run_file_of_the_readme_loads(tmp_path: Path) -> None:
    [text] = blocks(README, "yaml")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/one.txt").write_text("One text.")
    (tmp_path / "small.yaml").write_text(text)
    config = load_run_file(tmp_path / "small.yaml")
    assert config.train.max_tokens == yaml.safe_load(text)["train"]["max_tokens"]


@pytest.mark.parametrize("page", [page for page in PAGES if FIELD.search(page.read_text())], ids=lambda page: page.name)
def test_fields_that_a_page_names_are_in_the_run_file(page: Path) -> None:
    known, section = set(SECTIONS), ""
    for line in render().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").partition(":")[0]
        elif match := re.match(r"\| `(\w+)` ", line):
            known.add(f"{section}.{match[1]}" if section != "The top level" else match[1])
    assert [field for field in FIELD.findall(page.read_text()) if field not in known] == []
