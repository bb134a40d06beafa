"""What a record of a fine-tuning source holds, by the names of its fields; a.b is nested."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskKind = Literal["completion", "chat", "class"]
# What records with several fields are read from.
TASK_FORMATS = ("jsonl", "parquet", "arrow")

_FROZEN = ConfigDict(frozen=True, extra="forbid")
_FieldName = Annotated[str, Field(min_length=1)]


class CompletionTask(BaseModel):
    """A prompt, and the completion that alone is learned."""

    model_config = _FROZEN
    kind: ClassVar[TaskKind] = "completion"

    prompt: _FieldName = Field(description="where a record keeps the prompt")
    completion: _FieldName = Field(description="where it keeps what is to follow")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record, in the order in which they are read."""
        return self.prompt, self.completion


class ChatTask(BaseModel):
    """A conversation, of which the assistant's turns are learned."""

    model_config = _FROZEN
    kind: ClassVar[TaskKind] = "chat"

    messages: _FieldName = Field(description="where a record keeps a list of {role, content}")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record, in the order in which they are read."""
        return (self.messages,)


class ClassTask(BaseModel):
    """A text, or a pair of texts, and its class."""

    model_config = _FROZEN
    kind: ClassVar[TaskKind] = "class"

    text: _FieldName = Field(description="where a record keeps the text")
    pair: _FieldName | None = Field(None, description="where it keeps a second text")
    label: _FieldName = Field(description="where it keeps the name of the class")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record, in the order in which they are read."""
        return (self.label, self.text, *([self.pair] if self.pair else []))


Task = CompletionTask | ChatTask | ClassTask


def task_text(task: Task) -> str:
    """A task in the form in which a unit of work carries it."""
    return json.dumps([task.kind, *task.fields])


def task_fields(text: str) -> tuple[str, ...]:
    """The fields of a task that `task_text` gave."""
    return tuple(json.loads(text)[1:])


def task_kind(text: str) -> TaskKind:
    """The kind of a task that `task_text` gave."""
    kind: TaskKind = json.loads(text)[0]
    return kind
