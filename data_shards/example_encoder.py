"""Records to examples: their fields checked, encoded, and cut to the length of a row; bad ones are rejected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_shards.batches import RecordBatch
from data_shards.chat_template import ChatTemplate, Message, UnusableChatError
from data_shards.encoder import Encoder
from data_shards.example_form import ExampleForm, class_name
from data_shards.examples import (
    Example,
    chat_example,
    class_example,
    completion_example,
    fitted,
    last_run_start,
)
from data_shards.records import record_hash, record_texts
from data_shards.rejects import Rejects, shown
from data_shards.tokenizer import TextTokenizer

_NO_CLASS = "no class of the dataset"


@dataclass(frozen=True, slots=True)
class MadeExample:
    """An example, and of the record that it was made from the hash that it is held out by and its text's UTF-8."""

    stored: Example
    split_hash: int
    text_bytes: int


class ExampleEncoder:
    """Makes examples of one form with one tokenizer."""

    def __init__(self, form: ExampleForm, tokenizer: TextTokenizer, encoder: Encoder, rejects: Rejects) -> None:
        self._form, self._tokenizer, self._encoder, self._rejects = form, tokenizer, encoder, rejects
        self._numbers = {name: number for number, name in enumerate(form.classes)}

    def examples(self, batch: RecordBatch) -> Iterator[MadeExample]:
        """The examples of a batch's good records, in order. Raises DataError under `fail` for a bad one."""
        places = [place for place, row in enumerate(batch.rows) if self._is_good(row, place, batch)]
        rows = [batch.rows[place] for place in places]
        made = self._of_chats(rows, places, batch) if self._form.task == "chat" else self._of_texts(rows)
        for place, row, example in zip(places, rows, made, strict=True):
            kept = None if example is None else self._fitted(example, batch, place)
            if kept is not None:
                size = sum(len(text.encode()) for text in record_texts(self._form.task, row))
                yield MadeExample(kept, record_hash(self._form.task, row), size)

    def _of_texts(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Example]:
        """Examples of completions and classes: the texts of all records are encoded at once."""
        texts = [record_texts(self._form.task, row) for row in rows]
        ids, offsets = self._encoder.encode_flat([text for own in texts for text in own])
        parts = iter(np.split(ids, offsets[1:-1]))
        for row, own in zip(rows, texts, strict=True):
            first, *rest = [next(parts) for _ in own]
            if self._form.task == "completion":
                yield completion_example(first, rest[0], self._tokenizer.eot_id)
            else:
                number = self._numbers[class_name(row[0]) or ""]
                yield class_example(first, rest[0] if rest else None, number, self._tokenizer.eot_id)

    def _of_chats(self, rows: Sequence[tuple[Any, ...]], places: list[int], batch: RecordBatch) -> Iterator[Any]:
        """Examples of conversations; None for those that the template does not take, which are rejected."""
        template = self._form.template
        assert template is not None
        for row, place in zip(rows, places, strict=True):
            try:
                yield self._chat(template, row[0])
            except UnusableChatError as error:
                self._rejects.reject(error.reason, batch.place(place), shown(error.found))
                yield None

    def _chat(self, template: ChatTemplate, messages: Sequence[Message]) -> Example:
        text, spans = template.turns(messages)
        encoding = self._with_control_tokens.encode(text, add_special_tokens=False)
        bounds = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # of characters, [tokens, 2]
        counted = np.zeros(len(bounds), dtype=np.bool_)
        for start, end in spans:
            counted |= (bounds[:, 1] > start) & (bounds[:, 0] < end)
        counted[:1] = False  # nothing predicts it
        if not counted.any():
            raise UnusableChatError("the assistant says nothing", text)
        return chat_example(np.array(encoding.ids, dtype=np.uint32), counted, self._tokenizer.eot_id)

    @cached_property
    def _with_control_tokens(self) -> Tokenizer:
        """The tokenizer as the template needs it: control tokens within a text are tokens."""
        backend = Tokenizer.from_str(self._tokenizer.backend.to_str())
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        added = self._tokenizer.backend.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    def _is_good(self, row: tuple[Any, ...], place: int, batch: RecordBatch) -> bool:
        """Whether a record can be an example; if not, it is rejected or, if it has no text, counted as empty."""
        check = {"completion": self._wrong_texts, "class": self._wrong_class, "chat": self._wrong_chat}
        problem = check[self._form.task](row)
        if problem is not None:
            self._rejects.reject(problem[0], batch.place(place), problem[1])
            return False
        texts = record_texts(self._form.task, row)
        is_empty = not (texts[0] if self._form.task == "class" else any(texts))
        self._rejects.empty += is_empty
        return not is_empty

    def _wrong_texts(self, values: Sequence[Any]) -> tuple[str, str] | None:
        """(reason, what was found), if not all values are strings that UTF-8 can spell."""
        for value in values:
            if not isinstance(value, str):
                return "a text is no string", f"{type(value).__name__} {shown(json.dumps(value, default=str))}"
            try:
                value.encode()
            except UnicodeEncodeError:
                return "a text holds half a surrogate pair", shown(ascii(value))
        return None

    def _wrong_class(self, row: Sequence[Any]) -> tuple[str, str] | None:
        name = class_name(row[0])
        if name is None:
            found = f"{type(row[0]).__name__} {shown(json.dumps(row[0], default=str))}"
            return "a label is no string and no whole number", found
        return self._wrong_texts(row[1:]) or (None if name in self._numbers else (_NO_CLASS, shown(name)))

    def _wrong_chat(self, row: Sequence[Any]) -> tuple[str, str] | None:
        messages = row[0]
        if not (isinstance(messages, list) and messages and all(map(_is_message, messages))):
            found = shown(json.dumps(messages, default=str))
            return "messages are no list of {role, content}", found
        for message in messages:
            held = next((token for token in self._control_tokens if token in message["content"]), None)
            if held is not None:
                return "a message holds a control token", f"{held} in {shown(message['content'])}"
        if not any(message["role"] == "assistant" for message in messages):
            return "no message is the assistant's", f"{len(messages)} messages"
        return self._wrong_texts([message["content"] for message in messages])

    def _fitted(self, example: Example, batch: RecordBatch, place: int) -> Example | None:
        most = self._form.seq_len
        if len(example) <= most:
            return example
        kept = fitted(example, most) if self._form.too_long == "cut" else None
        if kept is None:
            start = last_run_start(example)
            found = f"{len(example)} tokens, the last {len(example) - start} of which are learned, of at most {most}"
            self._rejects.reject_too_long(batch.place(place), found, self._form.too_long)
        return kept


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
