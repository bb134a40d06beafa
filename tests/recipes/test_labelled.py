"""What the labelled corpora have in common."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipes.data.labelled import Labelled, fetched, out_folder, split, unique, write


def read_words(archive: Path) -> list[Labelled]:
    return [(word, archive.name) for word in archive.read_text().split()]


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def test_fetched_reads_the_one_file_of_an_empty_folder(capfd: pytest.CaptureFixture[str]) -> None:
    command = python("import sys; print('made'); open(sys.argv[1], 'w').write('mill race')")
    assert fetched(command, "words", read_words) == [("mill", "words"), ("race", "words")]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [(("no-such-program", "pack"), "`no-such-program` must be there"), (python("raise SystemExit(7)"), "status 7")],
)
def test_fetched_without_its_package_says_what_to_do(command: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit, match=f"words: .*{said}"):
        fetched(command, "words", read_words)


def test_unique_keeps_the_first_of_texts_that_differ_in_white_space() -> None:
    labelled = [("a  b", "x"), ("a b", "y"), (" ", "x"), ("c", "x"), ("d", "y")]
    assert unique(labelled, besides=[(" c ", "z")]) == [("a  b", "x"), ("d", "y")]


def test_split_holds_out_a_fifth_the_same_each_time() -> None:
    labelled = [(str(number), "x") for number in range(50)]
    train, test = split(labelled)
    assert (len(train), len(test)) == (40, 10)
    assert sorted(train + test) == sorted(labelled)
    assert split(labelled) == (train, test) and test != labelled[:10]


def test_written_records_hold_text_and_label(tmp_path: Path) -> None:
    folder = out_folder("mails", None, ["--out", str(tmp_path / "made")])
    write(folder, [("好 a", "pos")], [("b\n", "neg")])
    assert json.loads((folder / "train.jsonl").read_text(encoding="utf-8")) == {"text": "好 a", "label": "pos"}
    assert json.loads((folder / "test.jsonl").read_text(encoding="utf-8")) == {"text": "b\n", "label": "neg"}
