"""`headrace generate` and `headrace evaluate`, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.generate import in_order
from cluster.find_model import find_model
from tests.cluster.command_line import answer, refusal
from tests.trainer.trained_run import make_run
from trainer.language_model import ModelPlace
from trainer.trained import export_trained, open_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), steps=(10, 20))


def test_generate_prints_prompts_and_texts_in_their_order(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", run, "--prompt", "tide", "--prompt", "mill wheel", "--max-tokens", 12, "--seed", 4)
    shown = answer(capsys, *words)
    given = json.loads(answer(capsys, *words, "--json"))
    assert [record["prompt"] for record in given] == ["tide", "mill wheel"]
    assert all(record["text"] for record in given)
    assert shown == "".join(f"{record['prompt']}{record['text']}\n" for record in given)


def test_generate_honours_every_option(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*words: object) -> str:
        answered = answer(capsys, "generate", run, "--prompt", "tide", "--max-tokens", 30, "--json", *words)
        return str(json.loads(answered)[0]["text"])

    free = text("--temperature", 2, "--top-k", 0)
    assert text("--temperature", 2, "--top-k", 0, "--seed", 1) != free
    assert text("--temperature", 2, "--top-k", 0, "--stop", free[6:9]) == free[: free.index(free[6:9])]
    greedy = text("--temperature", 0)
    assert text("--temperature", 2, "--top-k", 1) == greedy
    assert text("--temperature", 2, "--top-k", 0, "--top-p", 1e-6) == greedy
    assert text("--temperature", 0, "--repetition-penalty", 5) != greedy


def test_generate_works_on_a_step_and_on_an_exported_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_trained(open_trained(run), tmp_path / "model")
    words = ("--prompt", "tide", "--max-tokens", 12)
    newest = answer(capsys, "generate", run, *words)
    assert answer(capsys, "generate", tmp_path / "model", *words) == newest
    assert answer(capsys, "generate", f"{run}@20", *words) == newest
    assert answer(capsys, "generate", f"{run}@10", *words) != newest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --prompt TEXT"),
        (("--prompt", "a", "--file", "f.txt", "--to", "o.jsonl"), "give --prompt TEXT"),
        (("--file", "f.txt"), "--file and --to belong together"),
        (("--prompt", "a", "--address", "auto"), "only the prompts of a --file"),
        (("--prompt", "a", "--top-p", "1.5"), "top_p is 1.5"),
        (("--prompt", "a", "--stop", ""), "a stop string is empty"),
        (("--prompt", "a", "--max-tokens", "-1"), "max_new_tokens is -1"),
    ],
)
def test_generate_with_impossible_options_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in refusal(capsys, "generate", run, *words)


def test_generate_of_a_file_is_refused_before_ray_starts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_start(*_: object) -> None:
        raise AssertionError("Ray was to stay away")

    monkeypatch.setattr("cluster.generate_file.ray_session", refuse_to_start)
    (tmp_path / "p.txt").write_text("tide\n")
    (tmp_path / "config.json").write_text("{}")
    whole = export_trained(open_trained(run), tmp_path / "model")
    (whole / "tokenizer.json").unlink()
    words = ("--file", tmp_path / "p.txt", "--to", tmp_path / "out.jsonl")
    assert "there must be a checkpoint of step 7, there are of [10, 20]" in refusal(
        capsys, "generate", f"{run}@7", *words
    )
    assert "model_type is None" in refusal(capsys, "generate", tmp_path, *words)
    assert "tokenizer.json: no such file" in refusal(capsys, "generate", whole, *words)
    assert "--chat: the model must have been trained on conversations" in refusal(
        capsys, "generate", run, *words, "--chat"
    )
    assert "a stop string is empty" in refusal(capsys, "generate", run, *words, "--stop", "")
    assert not (tmp_path / "out.jsonl").exists()


def test_in_order_lets_the_first_prompt_stream_and_keeps_the_others() -> None:
    said: list[str] = []

    def pieces() -> Any:
        yield 0, "a"
        assert said == ["P", "a"]  # told before the next is made
        yield 1, "x"
        yield 0, "b"
        yield 1, "y"

    for piece in in_order(["P", "Q", "R"], pieces()):
        said.append(piece)
    assert "".join(said) == "Pab\nQxy\nR\n"


def test_find_model_tells_runs_steps_and_folders_apart(run: Path, tmp_path: Path) -> None:
    assert find_model(str(run), None) == ModelPlace(run, is_run=True)
    assert find_model("mill@7", run.parent) == ModelPlace(run, is_run=True, step=7)
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path), None) == ModelPlace(tmp_path, is_run=False)


def test_evaluate_prints_loss_by_source_and_position(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = json.loads(answer(capsys, "evaluate", run, "--json"))
    assert scores["step"] == 20
    assert len(scores["sources"]) == 2
    assert scores["tokens"] == sum(own["tokens"] for own in scores["sources"].values())
    shown = answer(capsys, "evaluate", run)
    assert f"step 20: loss {scores['loss']:.4f} nats per token" in shown
    for source, own in scores["sources"].items():
        assert f"source {source}: loss {own['loss']:.4f}" in shown
        assert f"{own['bits_per_byte']:.4f} bits per byte" in shown
    assert f"after 8 to 15 tokens: loss {scores['positions'][3]['loss']:.4f}" in shown
    assert json.loads(answer(capsys, "evaluate", f"{run}@10", "--json"))["loss"] != scores["loss"]


def test_evaluate_at_multiple_choice_prints_both_accuracies(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "q.jsonl"
    question = {"prompt": "tide mill", "choices": ["wheel", "über", "三国 naïve sluice"]}
    path.write_text("".join(json.dumps({**question, "answer": answer}) + "\n" for answer in range(3)))
    scores = json.loads(answer(capsys, "evaluate", run, "--choices", path, "--json"))
    # The same question with each answer once: one of them is right, whatever the model takes.
    assert scores == {"questions": 3, "acc": pytest.approx(1 / 3), "acc_norm": pytest.approx(1 / 3)}
    assert "3 questions: accuracy 0.3333 by log-likelihood" in answer(capsys, "evaluate", run, "--choices", path)


def test_evaluate_of_an_exported_folder_is_refused_without_choices(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_trained(open_trained(run), tmp_path / "model")
    assert "has no held-out documents" in refusal(capsys, "evaluate", tmp_path / "model")
