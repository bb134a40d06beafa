from typing import Any

import pytest
from pydantic import ValidationError

from data_shards.settings import DataSettings
from data_shards.task_settings import ChatTask, ClassTask, CompletionTask, task_fields, task_kind, task_text

COMPLETION = {"path": "a.jsonl", "task": {"prompt": "q", "completion": "a"}}
CLASS = {"path": "b.jsonl", "task": {"text": "t", "label": "y"}}


def settings(*sources: Any, **changes: Any) -> DataSettings:
    return DataSettings.model_validate({"sources": sources, "tokenizer": "t.json", **changes})


def test_task_kind_goes_by_its_fields() -> None:
    assert isinstance(settings(COMPLETION).task, CompletionTask)
    assert isinstance(settings({"path": "c", "format": "jsonl", "task": {"messages": "m"}}).task, ChatTask)
    assert isinstance(settings(CLASS).task, ClassTask)
    assert settings("a.txt").task is None


def test_task_text_gives_kind_and_fields_back() -> None:
    text = task_text(ClassTask(text="a.b", pair="p", label="y"))
    assert (task_kind(text), task_fields(text)) == ("class", ("y", "a.b", "p"))
    assert task_fields(task_text(CompletionTask(prompt="p", completion="c"))) == ("p", "c")


def test_packing_of_sources_with_a_task_is_examples_also_after_a_dump() -> None:
    made = settings(COMPLETION)
    assert made.packing == "examples"
    assert DataSettings.model_validate(made.model_dump(mode="json")) == made
    assert settings("a.txt").packing == "stream"


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        ([COMPLETION, CLASS], {}, "found a.jsonl: completion, b.jsonl: class: make two datasets"),
        ([COMPLETION, "c.txt"], {}, "found a.jsonl: completion, c.txt: none"),
        ([COMPLETION], {"val_sources": ["c.txt"]}, "all have a task of one kind or none has"),
        ([COMPLETION], {"packing": "stream"}, "found stream with a task: leave packing out"),
        (["c.txt"], {"packing": "examples"}, "found examples without a task"),
        ([COMPLETION], {"classes": ["a", "b"]}, "classes: are for sources with a task {text, label}"),
        ([CLASS], {"classes": ["a", "b", "a"]}, "found one twice"),
        ([{**COMPLETION, "format": "text"}], {}, "records are read from jsonl, parquet, arrow, but format is text"),
        ([{**COMPLETION, "field": "x"}], {}, "task names the fields already, but field is x"),
    ],
)
def test_tasks_that_do_not_go_together_are_refused(sources: list[Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(*sources, **changes)
