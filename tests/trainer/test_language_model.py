from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.generate import generate
from model.sampling import Sampling
from tests.trainer.trained_run import make_run, random_model
from trainer.errors import TrainError
from trainer.language_model import LanguageModel, ModelPlace, TextRequest, open_language_model
from trainer.trained import export_trained, open_trained

PROMPTS = ["tide 三国", "mill", ""]
REQUEST = TextRequest(40, Sampling(1.5), seed=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), steps=(10, 20))


@pytest.fixture(scope="module")
def language_model(run: Path) -> LanguageModel:
    return open_language_model(ModelPlace(run, is_run=True))


def test_stream_adds_up_to_the_decoded_tokens(language_model: LanguageModel) -> None:
    text = language_model.texts(PROMPTS[:1], REQUEST)[0]
    ids = generate(
        language_model.model,
        language_model.encode(PROMPTS[0]),
        40,
        temperature=1.5,
        seed=2,
        eot_id=language_model.eot_id,
    )
    assert text == language_model.decode(ids)
    assert len(text) > 10


def test_stream_gives_each_prompt_its_text_whatever_the_batch(language_model: LanguageModel) -> None:
    together = language_model.texts(PROMPTS, REQUEST)
    assert [language_model.texts([prompt], REQUEST, [row])[0] for row, prompt in enumerate(PROMPTS)] == together
    backwards = language_model.texts(PROMPTS[::-1], REQUEST, [2, 1, 0])
    assert backwards[::-1] == together
    pieces = list(language_model.stream(PROMPTS, REQUEST))
    assert {row for row, _ in pieces[:6]} == {0, 1, 2}


def test_stream_ends_before_a_stop_string_and_costs_no_further_tokens(language_model: LanguageModel) -> None:
    [whole] = language_model.texts(PROMPTS[:1], REQUEST)
    stop = whole[10:13]
    passes: list[int] = []
    hook = language_model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    [text] = language_model.texts(PROMPTS[:1], TextRequest(40, Sampling(1.5), (stop, "\x00 not there"), seed=2))
    hook.remove()
    assert text == whole[: whole.index(stop)]
    assert 0 < len(passes) < 40


def test_open_language_model_at_a_step_has_that_steps_weights(run: Path) -> None:
    for step, wanted in ((None, 20), (20, 20), (10, 10)):
        opened = open_language_model(ModelPlace(run, is_run=True, step=step)).model
        assert torch.equal(opened.wte.weight, random_model(opened.config.real_vocab_size, wanted).wte.weight)
    with pytest.raises(TrainError, match=r"there must be a checkpoint of step 30, there are of \[10, 20\]"):
        open_language_model(ModelPlace(run, is_run=True, step=30))


def test_open_language_model_of_an_exported_folder_writes_the_same(
    run: Path, language_model: LanguageModel, tmp_path: Path
) -> None:
    folder = export_trained(open_trained(run), tmp_path / "model")
    exported = open_language_model(ModelPlace(folder, is_run=False))
    assert exported.eot_id == language_model.eot_id
    assert exported.texts(PROMPTS, REQUEST) == language_model.texts(PROMPTS, REQUEST)


def test_open_language_model_puts_the_tokenizers_own_beginning_before_prompts(run: Path, tmp_path: Path) -> None:
    folder = export_trained(open_trained(run), tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    opened = open_language_model(ModelPlace(folder, is_run=False))
    assert opened.prefix_ids == (5,)
    assert 5 not in opened.encode("mill")


def test_open_language_model_of_a_folder_without_tokenizer_or_end_is_refused(run: Path, tmp_path: Path) -> None:
    folder = export_trained(open_trained(run), tmp_path / "model")
    for name in ("generation_config.json", "config.json"):
        values = json.loads((folder / name).read_text())
        del values["eos_token_id"]
        (folder / name).write_text(json.dumps(values))
    with pytest.raises(TrainError, match="eos_token_id is missing"):
        open_language_model(ModelPlace(folder, is_run=False))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TrainError, match=r"tokenizer\.json: no such file"):
        open_language_model(ModelPlace(folder, is_run=False))
