"""Conversations as text by a tokenizer's chat template, and which parts of it the assistant says.

A template is Jinja, run in the sandbox and with the helpers that Hugging Face's `apply_chat_template` gives it, but for
`strftime_now`: the same records must give the same tokens on any day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from data_shards.errors import DataError
from data_shards.settings import TrainTokenizer, is_remote
from data_shards.source_files import find, read_bytes, reading
from data_shards.tokenizer import END_OF_TEXT

# Where the tokenizer's folder has none. A line break stands before what is said: a tokenizer puts none of its tokens
# across the two, so that a prompt alone has the same tokens as in the whole.
DEFAULT_TEMPLATE = """\
{% for message in messages %}
{{ message['role']|capitalize }}:
{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' else '' }}

{% endfor %}
{% if add_generation_prompt %}
Assistant:
{% endif %}
"""
_TEMPLATE_FILE, _CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
Message = Mapping[str, Any]
Span = tuple[int, int]
"""Characters [start, end) of a text."""


class UnusableChatError(ValueError):
    """A conversation that cannot be an example: (reason, what was found)."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(reason, found)
        self.reason, self.found = reason, found


@dataclass(frozen=True)
class ChatTemplate:
    """A template's text, and the control tokens that it may write, by name (eos_token and so on)."""

    text: str = DEFAULT_TEMPLATE
    tokens: Mapping[str, str] = field(default_factory=lambda: {"eos_token": END_OF_TEXT})

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The messages as one text; with a generation prompt the assistant is to go on.

        Raises: UnusableChatError where the template refuses them.
        """
        try:
            return _compiled(self.text).render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **self.tokens
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise UnusableChatError("the chat template refuses it", str(error)) from error

    def turns(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text of a conversation, and what of it the assistant says: its turns, each with the end mark after it.

        A turn is what the text of the messages up to it has more than that of the messages before it with a generation
        prompt. Raises: UnusableChatError where the template refuses them, or does not write them one after the other.
        """
        whole, spans = self.render(messages), []
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self.render(messages[:place], add_generation_prompt=True)
                with_turn = self.render(messages[: place + 1]).rstrip()
                if not (whole.startswith(with_turn) and with_turn.startswith(before)):
                    raise UnusableChatError("the chat template does not write turns apart", f"turn {place + 1}")
                spans.append((len(before), len(with_turn)))
        return whole, spans

    @property
    def end_mark(self) -> str:
        """What stands behind all that the assistant says, without blanks around it; empty where that is nothing."""
        answer = "answer"
        try:
            whole, spans = self.turns([{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}])
        except UnusableChatError:
            return ""
        [(start, end)] = spans
        return whole[start:end].rpartition(answer)[2].strip()

    def to_json(self) -> bytes:
        """As a file keeps it."""
        return json.dumps({"text": self.text, "tokens": dict(self.tokens)}, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> ChatTemplate:
        """What `to_json` gave."""
        return cls(**json.loads(data))


def chat_template(tokenizer: TrainTokenizer | str) -> ChatTemplate:
    """The template in a tokenizer's folder: chat_template.jinja, or in tokenizer_config.json; else DEFAULT_TEMPLATE.

    Raises: DataError where it cannot be read, or is no template.
    """
    if isinstance(tokenizer, TrainTokenizer):
        return ChatTemplate()
    text, tokens = _template_and_tokens(tokenizer)
    return ChatTemplate(text or DEFAULT_TEMPLATE, tokens)


def own_template(tokenizer: str) -> ChatTemplate | None:
    """The template that a tokenizer's folder has; None if it has none. Raises as `chat_template`."""
    text, tokens = _template_and_tokens(tokenizer)
    return ChatTemplate(text, tokens) if text else None


def _template_and_tokens(tokenizer: str) -> tuple[str | None, dict[str, str]]:
    folder = tokenizer.rstrip("/")
    if not _is_file(f"{folder}/tokenizer.json") and _is_file(folder):
        folder = folder.rpartition("/")[0]
    config = _config(f"{folder}/{_CONFIG_FILE}")
    path = f"{folder}/{_TEMPLATE_FILE}"
    text = read_bytes(path).decode() if _is_file(path) else _template_of(config)
    try:
        _compiled(text or "")
    except jinja2.TemplateError as error:
        raise DataError(f"data.tokenizer: the chat template in {folder} is none ({error}): correct it") from error
    return text, {"eos_token": END_OF_TEXT, **_tokens_of(config)}


def _is_file(address: str) -> bool:
    if is_remote(address):
        return bool(find(address))
    with reading(address):
        return Path(address).is_file()


def _config(path: str) -> dict[str, Any]:
    if not _is_file(path):
        return {}
    try:
        config = json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"data.tokenizer: {path} is not JSON ({error}): correct it") from error
    return config if isinstance(config, dict) else {}


def _template_of(config: Mapping[str, Any]) -> str | None:
    """One template, or of several by name the one called default."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _tokens_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Values such as "eos_token": "</s>", or "eos_token": {"content": "</s>"}."""
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


class _GenerationTag(jinja2.ext.Extension):
    """Templates may enclose what the assistant says in {% generation %}: here it is written as it stands."""

    tags = {"generation"}  # noqa: RUF012  # as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=4)
def _compiled(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(text)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
