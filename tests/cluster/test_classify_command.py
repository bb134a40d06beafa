"""`headrace classify`, and what the other commands say of a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli import main
from tests.cluster.command_line import answer, refusal
from tests.trainer.test_text_classifier import CLASSES, classifier_run, record
from tests.trainer.trained_run import make_run
from trainer.trained import export_trained, open_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_run(tmp_path_factory.mktemp("run"))


def test_classify_prints_the_likeliest_class_of_each_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("classify", run, "--text", "mill 7 tide", "--text", "x\ny")
    found = json.loads(answer(capsys, *words, "--json"))
    assert [one["text"] for one in found] == ["mill 7 tide", "x\ny"]
    for one in found:
        assert list(one["probabilities"]) == list(CLASSES)
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["probabilities"][one["predicted"]] == max(one["probabilities"].values())
    shown = answer(capsys, *words).splitlines()
    assert shown == [
        f"{one['predicted']}  {one['probabilities'][one['predicted']]:.3f}  {text}"
        for one, text in zip(found, ["mill 7 tide", "x y"], strict=True)
    ]


def test_classify_of_a_file_gives_each_record_its_class(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [record(number) for number in range(70)]
    file, to = tmp_path / "new.jsonl", tmp_path / "out/classes.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    shown = answer(capsys, "classify", run, "--file", file, "--to", to)
    found = [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()]
    assert [{name: one[name] for name in records[0]} for one in found] == records
    counts = {name: sum(one["predicted"] == name for one in found) for name in CLASSES}
    assert f"70 texts classified (ham {counts['ham']}, spam {counts['spam']}, list {counts['list']})" in shown
    assert json.loads(answer(capsys, "classify", run, "--file", file, "--json")) == found
    told = json.loads(answer(capsys, "classify", run, "--file", file, "--to", to, "--json"))
    assert told == {"texts": 70, "to": str(to), "by_class": counts}


def test_classify_of_pairs_takes_a_pair_for_each_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = classifier_run(tmp_path, pair="subject")
    [found] = json.loads(answer(capsys, "classify", run, "--text", "a", "--pair", "b", "--json"))
    assert (found["text"], found["pair"]) == ("a", "b")
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps({"body": "a", "subject": "b"}) + "\n")
    [of_file] = json.loads(answer(capsys, "classify", run, "--file", file, "--json"))
    assert of_file["probabilities"] == found["probabilities"]
    # A folder does not say whether pairs were trained on: they are taken where there are any.
    folder = export_trained(open_trained(run), tmp_path / "model")
    file.write_text(json.dumps({"text": "a", "pair": "b"}) + "\n" + json.dumps({"text": "a"}) + "\n")
    pair, single = json.loads(answer(capsys, "classify", folder, "--file", file, "--json"))
    assert pair["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
    assert single["probabilities"] != pair["probabilities"]
    assert "trained on pairs of texts" in refusal(capsys, "classify", run, "--text", "a")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --text TEXT"),
        (("--text", "a", "--file", "f.txt"), "give --text TEXT"),
        (("--text", "a", "--to", "o.jsonl"), "--to: is for the records of a --file"),
        (("--file", "f.txt"), "--file: say where the classes go"),
        (("--text", "a", "--text", "b", "--pair", "c"), "--pair: each --text must have its own; found 1 for 2"),
        (("--text", ""), "text 1: must have at least one character"),
        (("--file", "none.jsonl", "--json"), "cannot be read"),
    ],
)
def test_classify_with_impossible_options_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in refusal(capsys, "classify", run, *words)


def test_classifier_and_language_model_name_each_others_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_trained(open_trained(run), tmp_path / "model")
    (tmp_path / "p.txt").write_text("a\n")
    ways = (("--prompt", "a"), ("--file", tmp_path / "p.txt", "--to", tmp_path / "out.jsonl"))
    for words in [(place, *way) for place in (run, folder) for way in ways]:
        assert "`headrace classify` for the classes of new texts" in refusal(capsys, "generate", *words)
    assert "`headrace generate`" in refusal(capsys, "classify", make_run(tmp_path / "text"), "--text", "a")


def test_classify_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["classify", "--help"])
    assert 'headrace classify mails --text "Win a prize now"' in capsys.readouterr().out
