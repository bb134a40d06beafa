from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model.sampling import Sampling
from tests.trainer.trained_run import make_run
from trainer.errors import TrainError
from trainer.harness import MAX_NEW_TOKENS, Harness, harness_model, text_request
from trainer.language_model import LanguageModel, ModelPlace, TextRequest, open_language_model
from trainer.multiple_choice import Question, score_questions
from trainer.scoring import Continuation, encode_pair, score

ROOT = Path(__file__).parents[2]
# What `lm_eval.evaluator` imports of what it needs, beyond what is here; it needs more for other tasks and metrics.
PACKAGES = ("lm_eval==0.4.13", "datasets==5.2.0", "dill==0.4.1", "multiprocess==0.70.19", "sacrebleu==2.6.0")
SMALLER = ("portalocker==4.4.2", "tabulate==0.10.0", "colorama==0.4.6", "more_itertools==11.2.1", "lxml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def language_model(run: Path) -> LanguageModel:
    return open_language_model(ModelPlace(run, is_run=True))


def requests(*arguments: tuple[Any, ...]) -> list[SimpleNamespace]:
    """Requests as the harness makes them: what is asked is in `args`."""
    return [SimpleNamespace(args=args) for args in arguments]


def test_harness_answers_loglikelihood(language_model: LanguageModel) -> None:
    pairs = [("tide mill", " wheel"), ("", "race"), ("tide ", "三国")]
    found = Harness(language_model).loglikelihood(requests(*pairs))
    wanted = score(language_model.model, [encode_pair(language_model, *pair) for pair in pairs])
    assert found == [tuple(scored) for scored in wanted]
    assert all(likelihood < 0 and isinstance(is_greedy, bool) for likelihood, is_greedy in found)


def test_harness_answers_rolling_loglikelihood_of_texts_of_any_length(language_model: LanguageModel) -> None:
    text = "tide mill wheel " * 20  # far beyond the model's 16 tokens
    [whole, nothing] = Harness(language_model).loglikelihood_rolling(requests((text,), ("",)))
    ids = language_model.encode(text)
    assert whole == score(language_model.model, [Continuation([language_model.eot_id], ids)])[0].log_likelihood
    assert whole < -len(ids)
    assert nothing == 0.0


def test_harness_generates_until_a_string_and_keeps_the_order(language_model: LanguageModel) -> None:
    settings = {"until": ["\x00"], "max_gen_toks": 6, "temperature": 0.0}
    asked = [("tide mill wheel", settings), ("a", {**settings, "max_gen_toks": 2}), ("race", settings)]
    found = Harness(language_model).generate_until(requests(*asked))
    greedy = Sampling(temperature=0.0)
    assert found == [
        language_model.texts([prompt], TextRequest(wanted["max_gen_toks"], greedy))[0] for prompt, wanted in asked
    ]
    stop = found[0][2:4]
    [stopped] = Harness(language_model).generate_until(requests(("tide mill wheel", {**settings, "until": stop})))
    assert stopped == found[0][: found[0].index(stop)]


def test_text_request_reads_the_harness_settings() -> None:
    assert text_request({}) == TextRequest(MAX_NEW_TOKENS, Sampling(0.0))
    assert text_request({"until": "\n", "do_sample": False, "temperature": 0.7}) == TextRequest(
        MAX_NEW_TOKENS, Sampling(0.0), ("\n",)
    )
    sampled = {"until": ["a", ""], "max_gen_toks": 5, "do_sample": True, "top_k": 3, "top_p": 0.5}
    assert text_request(sampled) == TextRequest(5, Sampling(1.0, 3, 0.5), ("a",))
    with pytest.raises(TrainError, match="num_beams cannot be honoured"):
        text_request({"num_beams": 4})


def test_harness_model_without_the_harness_says_what_to_do(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(TrainError, match="pip install lm_eval"):
        harness_model(language_model)


@pytest.fixture(scope="module")
def lm_eval_folder() -> Path:
    """lm-evaluation-harness and what it imports, without the rest of its dependencies; kept for the next time."""
    folder = Path.home() / ".cache/headrace-tests/lm_eval-0.4.13"
    if not folder.is_dir():
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(temporary)]
        subprocess.run([*pip, *PACKAGES, *SMALLER], check=True, timeout=300)
        temporary.rename(folder)
    return folder


@pytest.mark.long
@pytest.mark.timeout(600)
def test_harness_evaluates_local_tasks(
    run: Path, language_model: LanguageModel, lm_eval_folder: Path, tmp_path: Path
) -> None:
    """The harness's own figures for three tasks are those made without it."""
    questions = [
        Question(prompt=f"tide {n}", choices=["mill", "wheel race", f"sluice {n}", "race"], answer=n % 4)
        for n in range(24)
    ]
    texts = ["tide mill wheel " * n for n in range(1, 5)]
    harness = Harness(language_model)
    written = harness.generate_until(requests(*((text, {"max_gen_toks": 8, "until": "\n\n"}) for text in texts)))
    written[0] = "another"
    (tmp_path / "questions.jsonl").write_text("".join(f"{question.model_dump_json()}\n" for question in questions))
    (tmp_path / "texts.jsonl").write_text(
        "".join(
            json.dumps({"text": text, "prompt": text, "continuation": continuation}) + "\n"
            for text, continuation in zip(texts, written, strict=True)
        )
    )
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("harness_tasks.py")), str(run), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{lm_eval_folder}",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "hf"),
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    wanted = score_questions(language_model, questions)
    assert results["choice"]["acc,none"] == pytest.approx(wanted["acc"])
    assert results["choice"]["acc_norm,none"] == pytest.approx(wanted["acc_norm"])
    likelihoods = harness.loglikelihood_rolling(requests(*((text,) for text in texts)))
    bits = -sum(likelihoods) / math.log(2) / sum(len(text.encode()) for text in texts)
    assert results["rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    assert results["until"]["exact_match,none"] == pytest.approx(0.75)
