"""The examples of docs/extending.md, as they stand there, run from another folder: by one process, and on Ray."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.headrace import ROOT, command, environment, events, newest_step, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_BLOCK = re.compile(r"```(python|yaml)\n(.*?)```", re.DOTALL)


def write_examples(folder: Path) -> Path:
    """The page's files, and films for them; the run file."""
    for kind, text in _BLOCK.findall((ROOT / "docs/extending.md").read_text()):
        name = "films.yaml" if kind == "yaml" else text.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(text)
    (folder / "films").mkdir()
    for film in range(30):
        spoken = [f"{i}\n00:00:{i:02d},000 --> 00:00:{i:02d},900\nfilm {film} says {i * film}" for i in range(1, 40)]
        (folder / f"films/{film:02d}.srt").write_text("\n\n".join(spoken) + "\n")
    return folder / "films.yaml"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=280)


WAYS = {
    "one process": lambda file: [sys.executable, "-m", "trainer", str(file)],
    "ray": lambda file: [*command("run", file), "--set", "cluster.workers=1"],
}


@pytest.mark.parametrize("way", ["one process", pytest.param("ray", marks=pytest.mark.long)])
def test_examples_of_the_page_read_a_corpus_and_stop_a_run(way: str, tmp_path: Path) -> None:
    done = run(*WAYS[way](write_examples(tmp_path)))
    assert done.returncode == 3, done.stderr
    out_dir = tmp_path / "runs/films"
    losses = [event["val_loss"] for event in events(out_dir, "eval")]
    assert newest_step(out_dir) == len(steps(out_dir)) < 400
    ages = [index - losses.index(min(losses[: index + 1])) for index in range(len(losses))]
    assert max(ages) >= 3  # of the best loss when the run was asked to stop, which takes a step or two
    assert {path.name.partition("-")[0] for path in (out_dir / "code").iterdir()} == {"early_stop", "subtitles"}
    shown = run(*command("data", "show", out_dir / "data", "0"))
    assert "says" in shown.stdout
    assert "-->" not in shown.stdout
