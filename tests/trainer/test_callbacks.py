"""Callbacks: which records are events, what they are told, and how their failures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_shards.errors import DataError
from tests.trainer.test_config import SMALLEST, write
from trainer.callbacks import CallbackCaller, Event, load_callbacks
from trainer.carried_code import carry_code
from trainer.changes import check_changes
from trainer.config import RunConfig, load_run_file
from trainer.errors import TrainError

RECORDS: list[dict[str, Any]] = [
    {"event": "start", "resumed_step": 4, "world_size": 2},
    {"step": 5, "tokens": 500, "loss": 2.0},
    {"event": "snapshot", "step": 5},
    {"event": "eval", "step": 5, "tokens": 500, "val_loss": 2.5},
    {"step": 6, "tokens": 600, "loss": 1.0},
    {"event": "checkpoint", "step": 5, "path": "/c/5"},
    {"event": "end", "step": 6, "tokens": 600, "status": "finished"},
]


def config_of(folder: Path, *callbacks: str) -> RunConfig:
    return load_run_file(write(folder, SMALLEST), [f"callbacks={list(callbacks)!r}"])


def test_callback_is_told_of_each_kind_of_event_in_order(tmp_path: Path) -> None:
    events: list[Event] = []
    caller = CallbackCaller(config_of(tmp_path), [("m:f", events.append)])
    for record in RECORDS:
        caller(record)
    assert [(event.kind, event.step, event.tokens) for event in events] == [
        ("start", 4, 0),
        ("step", 5, 500),
        ("evaluation", 5, 500),
        ("step", 6, 600),
        ("checkpoint", 5, 600),
        ("end", 6, 600),
    ]
    assert events[1].values["loss"] == 2.0
    assert events[0].out_dir == Path(config_of(tmp_path).out_dir)
    with pytest.raises(TypeError):
        events[1].values["loss"] = 0.0  # type: ignore[index]


def test_callback_that_raises_is_named_with_event_and_place(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text("def watch(event):\n    return {}[event.kind]\n")
    config = config_of(tmp_path, "hooks:watch")
    caller = CallbackCaller(config, load_callbacks(config))
    with pytest.raises(TrainError, match=r"hooks\.py:watch failed at the step event of step 5 .KeyError: 'step'; .*2"):
        caller(RECORDS[1])


def test_callbacks_are_found_from_the_run_files_folder_and_travel_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text("def watch(event): event.append(1)\n")
    config = carry_code(config_of(tmp_path, "hooks:watch"))
    [text] = config.callbacks
    assert Path(text.rpartition(":")[0]).parent == Path(config.out_dir) / "code"
    (tmp_path / "hooks.py").unlink()
    [(_, callback)] = load_callbacks(RunConfig.model_validate(config.model_dump(mode="json")))
    told: list[int] = []
    callback(told)  # type: ignore[arg-type]
    assert told == [1]


def test_callbacks_that_cannot_be_are_refused_with_their_field(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="callbacks: must be MODULE:FUNCTION, found 'hooks'"):
        config_of(tmp_path, "hooks")
    with pytest.raises(DataError, match=r"^callbacks\.1: no module absent"):
        load_callbacks(config_of(tmp_path, "string:capwords", "absent:f"))


def test_callbacks_may_change_on_a_resume(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text("def watch(event): pass\n")
    assert check_changes(config_of(tmp_path), config_of(tmp_path, "hooks:watch"), accepted=False) == []
