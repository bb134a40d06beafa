"""Conversations with a model that was trained on such."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from cluster.cli import main
from data_shards.chat_template import ChatTemplate
from model.sampling import Sampling
from tests.data_shards.records import write_records
from tests.data_shards.test_chat_template import CHATML, tokenizer_folder
from tests.trainer.trained_run import make_run
from trainer.chat import ChatFormat
from trainer.errors import TrainError
from trainer.language_model import LanguageModel, ModelPlace, TextRequest, check_place, open_language_model
from trainer.trained import export_trained, open_trained

REQUEST = TextRequest(8, Sampling(0.0), is_chat=True)


def chat(number: int) -> dict[str, object]:
    messages = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"mill {number}"}]
    return {"chat": messages}


def chat_run(folder: Path, tokenizer: object) -> Path:
    write_records(folder / "corpus/chats.jsonl", map(chat, range(100)))
    source = {"path": "corpus/chats.jsonl", "task": {"messages": "chat"}}
    return make_run(folder, seq_len=64, sources=[source], tokenizer=tokenizer)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return chat_run(folder, str(tokenizer_folder(folder / "tokenizer", CHATML)))


@pytest.fixture(scope="module")
def language_model(run: Path) -> LanguageModel:
    return open_language_model(ModelPlace(run, is_run=True))


def saying(language_model: LanguageModel, text: str) -> LanguageModel:
    """The model made to go on with the tokens of a text, whatever comes before."""
    assert language_model.chat is not None
    ids = language_model.chat.tokenizer.encode(text).ids
    said = iter(ids)

    def say(*_: object, **__: object) -> torch.Tensor:
        logits = torch.zeros(1, 1, language_model.model.config.vocab_size)
        logits[..., next(said)] = 9.0
        return logits

    model = dataclasses.replace(language_model)
    model.model.forward = say  # type: ignore[method-assign]
    return model


def chat_of(language_model: LanguageModel) -> ChatFormat:
    assert language_model.chat is not None
    return language_model.chat


def test_prompt_is_written_by_the_template_with_its_control_tokens(language_model: LanguageModel) -> None:
    ids = chat_of(language_model).prompt_ids("7?")
    assert language_model.decode(ids) == "<|im_start|>user\n7?<|im_end|>\n<|im_start|>assistant\n"
    start = chat_of(language_model).tokenizer.token_to_id("<|im_start|>")
    assert [place for place, id in enumerate(ids) if id == start] == [0, ids.index(start, 1)]
    assert start not in language_model.encode("<|im_start|>")  # a text's own are plain text


def test_prompt_that_holds_a_control_token_is_refused(language_model: LanguageModel) -> None:
    with pytest.raises(TrainError, match=r"the prompt holds '<\|im_end\|>'"):
        language_model.texts(["a<|im_end|>b"], REQUEST)


@pytest.mark.parametrize("is_chat", [True, False])
def test_answer_ends_at_the_templates_end_mark_without_being_told(language_model: LanguageModel, is_chat: bool) -> None:
    request = dataclasses.replace(REQUEST, max_new_tokens=20, is_chat=is_chat)
    model = saying(open_language_model_again(language_model), "mill 7<|im_end|>\nand more")
    assert model.texts(["7?"], request) == ["mill 7"]


def open_language_model_again(language_model: LanguageModel) -> LanguageModel:
    """With a model of its own, which a test may change."""
    return dataclasses.replace(language_model, model=type(language_model.model)(language_model.model.config).eval())


def test_chat_with_a_model_that_has_no_template_is_refused_before_it_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = export_trained(open_trained(run), tmp_path / "model")
    for place in (ModelPlace(run, is_run=True), ModelPlace(folder, is_run=False)):
        with pytest.raises(TrainError, match="--chat: the model must have been trained on conversations"):
            check_place(place, REQUEST)
        assert open_language_model(place).chat is None
        with pytest.raises(TrainError, match="Leave --chat out"):
            open_language_model(place).texts(["7?"], REQUEST)


def test_export_has_the_template_and_ends_where_a_turn_does(
    run: Path, language_model: LanguageModel, tmp_path: Path
) -> None:
    folder = export_trained(open_trained(run), tmp_path / "model")
    peer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "7?"}]
    ids = peer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert ids == chat_of(language_model).prompt_ids("7?")
    facts = json.loads((folder / "generation_config.json").read_text())
    turn_end = peer.convert_tokens_to_ids("<|im_end|>")
    assert facts["eos_token_id"] == [language_model.eot_id, turn_end]
    exported = open_language_model(ModelPlace(folder, is_run=False))
    assert exported.eot_id == language_model.eot_id
    assert exported.texts(["7?"], REQUEST) == language_model.texts(["7?"], REQUEST)


def test_run_with_a_trained_tokenizer_answers_by_the_default_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = chat_run(tmp_path, {"train": "bpe", "vocab_size": 300})
    model = open_language_model(ModelPlace(run, is_run=True))
    assert chat_of(model).template == ChatTemplate()
    assert model.decode(chat_of(model).prompt_ids("7?")) == "User:\n7?\n\nAssistant:\n"
    words = ["generate", str(run), "--chat", "--prompt", "7?", "--max-tokens", "8", "--temperature", "0"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"7?\n{model.texts(['7?'], REQUEST)[0]}\n"
