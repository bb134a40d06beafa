from __future__ import annotations

from docs.generate import PATH, render


def test_run_file_page_is_what_the_models_say() -> None:
    assert PATH.read_text() == render(), "docs/run-file.md is stale: run `make docs`"
