import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from data_shards.chat_template import DEFAULT_TEMPLATE, ChatTemplate, UnusableChatError, chat_template
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.kept_template import kept_template
from data_shards.loss_bit import counted_tokens, token_ids
from data_shards.settings import TrainTokenizer
from data_shards.stats import describe
from data_shards.tokenizer import load_tokenizer
from tests.data_shards.byte_level import PRE_TOKENIZERS, trained
from tests.data_shards.records import (
    COMPLETION,
    prepare_records,
    reversal,
    stored_examples,
    task_settings,
    write_records,
)

CHATML = (
    "{%- if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{% endif %}\n"
    "{%- for message in messages %}{% if message.role != 'system' %}\n"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{% generation %}{{- message.content | trim + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.role + m.content }}{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "user", "content": "Turn the wheel, please."},
    {"role": "assistant", "content": "The wheel turns;\n三国 it's 12."},
    {"role": "user", "content": " And again?"},
    {"role": "assistant", "content": "Don't stop"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
TASK = {"messages": "chat"}


def said(template: ChatTemplate, messages: list[dict[str, str]]) -> list[str]:
    text, spans = template.turns(messages)
    return [text[start:end] for start, end in spans]


def tokenizer_folder(folder: Path, template: str, *, in_config: bool = True) -> Path:
    """A tokenizer with ChatML's control tokens, and a chat template."""
    folder.mkdir(parents=True)
    tokenizer = trained(PRE_TOKENIZERS["qwen"])
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({"chat_template": template} if in_config else {}))
    )
    if not in_config:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_turns_by_the_default_template_are_what_the_assistant_says_and_its_end_mark() -> None:
    assert said(ChatTemplate(), CHAT) == [f"{CHAT[i]['content']}<|endoftext|>" for i in (1, 3)]
    assert ChatTemplate().render(CHAT[:1], add_generation_prompt=True) == (
        "User:\nTurn the wheel, please.\n\nAssistant:\n"
    )


@pytest.mark.parametrize("messages", [CHAT, [SYSTEM, *CHAT], CHAT[:3]])
def test_turns_by_chatml_end_with_its_end_mark_alone(messages: list[dict[str, str]]) -> None:
    wanted = [f"{one['content'].strip()}<|im_end|>" for one in messages if one["role"] == "assistant"]
    assert said(ChatTemplate(CHATML, {}), messages) == wanted


def test_turns_of_a_template_without_generation_prompt_begin_behind_the_question() -> None:
    template = ChatTemplate(LLAMA2, {"bos_token": "<s>", "eos_token": "</s>"})
    assert said(template, CHAT) == [f" {CHAT[1]['content']} </s>", f" {CHAT[3]['content']} </s>"]


def test_turns_that_the_template_refuses_or_rewrites_are_unusable() -> None:
    with pytest.raises(UnusableChatError) as refused:
        ChatTemplate(LLAMA2, {"bos_token": "", "eos_token": ""}).turns(CHAT[1:])
    assert refused.value.found == "turns must alternate"
    with pytest.raises(UnusableChatError) as rewritten:
        ChatTemplate(FORGETFUL, {}).turns(CHAT)
    assert rewritten.value.reason == "the chat template does not write turns apart"


def test_chat_template_runs_in_a_sandbox() -> None:
    with pytest.raises(UnusableChatError, match="the chat template refuses it"):
        ChatTemplate("{{ messages.append(1) }}", {}).render(CHAT)
    with pytest.raises(UnusableChatError, match="unsafe"):
        ChatTemplate("{{ ''.__class__.__mro__ }}", {}).render(CHAT)


def test_chat_template_is_that_of_the_tokenizers_folder(tmp_path: Path) -> None:
    config = chat_template(str(tokenizer_folder(tmp_path / "a", CHATML)))
    assert (config.text, config.tokens["eos_token"]) == (CHATML, "<|im_end|>")
    beside = tokenizer_folder(tmp_path / "b", LLAMA2, in_config=False)
    assert chat_template(str(beside / "tokenizer.json")).text == LLAMA2
    assert chat_template(TrainTokenizer(train="bpe", vocab_size=300)) == ChatTemplate(DEFAULT_TEMPLATE)
    with pytest.raises(DataError, match=r"data.tokenizer: the chat template in .*/c is none"):
        chat_template(str(tokenizer_folder(tmp_path / "c", "{% for %}")))


@pytest.mark.parametrize("messages", [CHAT, [SYSTEM, *CHAT]])
@pytest.mark.parametrize("template", [CHATML, LLAMA2.replace("' ' + eos_token", "eos_token")])
def test_prepare_chats_gives_the_tokens_and_the_mask_of_transformers(
    tmp_path: Path, template: str, messages: list[dict[str, str]]
) -> None:
    if template != CHATML and messages[0] is SYSTEM:
        messages = messages[1:]  # which it refuses
    folder = tokenizer_folder(tmp_path / "tokenizer", template)
    write_records(tmp_path / "records/a.jsonl", [{"chat": messages}])
    write_records(tmp_path / "val.jsonl", [{"chat": messages}])
    val = [{"path": "val.jsonl", "task": TASK}]
    made = prepare_records(tmp_path, tmp_path / "d", TASK, seq_len=256, tokenizer=str(folder), val_sources=val)
    [example] = stored_examples(made, "train")
    peer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>", bos_token="<|endoftext|>"
    )
    peer.chat_template = template
    wanted = peer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    ids = token_ids(example).tolist()
    assert ids == wanted[: len(ids)]
    backend = load_tokenizer(made.tokenizer_path)
    learned = np.split(ids, np.flatnonzero(np.diff(counted_tokens(example))) + 1)[1::2]
    assert [backend.decode(part).strip().removesuffix("<|im_end|>").strip() for part in learned] == [
        one["content"].strip() for one in messages if one["role"] == "assistant"
    ]
    assert all(part[-1] == peer.eos_token_id for part in learned)
    assert counted_tokens(example)[-1]


def test_prepare_chats_with_a_trained_tokenizer_ends_each_turn_with_the_end_mark(tmp_path: Path) -> None:
    write_records(
        tmp_path / "records/a.jsonl", [{"chat": [*CHAT, {"role": "user", "content": f"{i}"}]} for i in range(40)]
    )
    made = prepare_records(tmp_path, tmp_path / "d", TASK, seq_len=128)
    for example in stored_examples(made, "train"):
        counted = counted_tokens(example)
        ends = np.flatnonzero(token_ids(example) == made.eot_id)
        assert counted[ends].tolist() == [True, True]
        assert ends[-1] == len(example) - 1


@pytest.mark.parametrize(
    ("reason", "chat"),
    [
        ("messages are no list of {role, content}", "hello"),
        ("messages are no list of {role, content}", [{"role": "user"}]),
        ("no message is the assistant's", CHAT[:1]),
        ("a message holds a control token", [CHAT[0], {"role": "assistant", "content": "a<|endoftext|>b"}]),
    ],
)
def test_prepare_bad_chat_is_skipped_with_its_reason(tmp_path: Path, reason: str, chat: object) -> None:
    good = [{"chat": [{"role": "user", "content": f"{i}"}, CHAT[1]]} for i in range(40)]
    write_records(tmp_path / "records/a.jsonl", [*good, {"chat": chat}])
    made = prepare_records(tmp_path, tmp_path / "d", TASK, seq_len=128, on_bad_record="skip")
    assert describe(made)["skipped_records"] == {reason: 1}


@pytest.mark.parametrize(
    ("template", "mark"),
    [
        (ChatTemplate(), "<|endoftext|>"),
        (ChatTemplate(CHATML, {}), "<|im_end|>"),
        (ChatTemplate(LLAMA2, {"bos_token": "<s>", "eos_token": "</s>"}), "</s>"),
        (ChatTemplate("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", {}), ""),
        (ChatTemplate("{{ messages[2].content }}", {}), ""),
    ],
)
def test_end_mark_is_what_stands_behind_the_assistants_words(template: ChatTemplate, mark: str) -> None:
    assert template.end_mark == mark


def test_dataset_of_conversations_keeps_the_template_that_they_were_written_with(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "tokenizer", CHATML)
    chats = [{"chat": [{"role": "user", "content": f"{i}"}, CHAT[1]]} for i in range(40)]
    write_records(tmp_path / "records/a.jsonl", chats)
    settings = task_settings(tmp_path, TASK, tokenizer=str(folder))
    made = prepare_records(tmp_path, tmp_path / "d", TASK, seq_len=128, tokenizer=str(folder))
    wanted = chat_template(str(folder))
    (folder / "tokenizer_config.json").write_text("{}")
    assert kept_template(made, settings) == wanted != chat_template(str(folder))
    changed = prepare_records(tmp_path, tmp_path / "d", TASK, seq_len=128, tokenizer=str(folder))
    assert kept_template(changed, settings) == chat_template(str(folder))
    assert kept_template(Dataset.open(tmp_path / "d", made.fingerprint), settings) == wanted
    for kept in (tmp_path / "d").rglob("chat_template.json"):
        kept.unlink()  # as in a dataset that is older than the file
    assert kept_template(made, settings) == chat_template(str(folder))


def test_dataset_without_conversations_keeps_no_template(tmp_path: Path) -> None:
    write_records(tmp_path / "records/a.jsonl", map(reversal, range(100, 160)))
    made = prepare_records(tmp_path, tmp_path / "d", COMPLETION)
    assert kept_template(made, task_settings(tmp_path, COMPLETION)) is None
    assert not (tmp_path / "d/chat_template.json").exists()
