from __future__ import annotations

from docs.generate import PATH, render


def test_run_file_page_is_what_the_models_say() -> None:
    assert PATH.read_text() == render(), "docs/run-file.md is stale: run `make docs`"


def test_run_file_page_names_every_type_of_a_field() -> None:
    rows = [line.split(" | ") for line in render().splitlines() if line.startswith("| `")]
    assert ["| `n_layer`", "int \\| null"] in [row[:2] for row in rows]
    assert not [row for row in rows if "\\|  \\|" in row[1]]


def test_run_file_page_has_no_heading_twice() -> None:
    headings = [line for line in render().splitlines() if line.startswith("## ")]
    assert len(headings) > 15
    assert sorted(set(headings)) == sorted(headings)
    assert "## data.sources.task: completion task" in headings
