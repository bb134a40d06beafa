from __future__ import annotations

from typing import Any

import pytest

from trainer.changes import changes_between, check_changes
from trainer.config import RunConfig
from trainer.errors import TrainError


def config(**changes: Any) -> RunConfig:
    document: dict[str, Any] = {
        "name": "a",
        "out_dir": "/runs/a",
        "data": {"sources": ["/corpus/*.txt"], "tokenizer": {"train": "bpe", "vocab_size": 300}},
        "train": {"max_tokens": 1000, "global_batch_size": 4, "lr": 1e-3},
    }
    for dotted, value in changes.items():
        section, _, field = dotted.partition("__")
        if field:
            document.setdefault(section, {})[field] = value
        else:
            document[section] = value
    return RunConfig.model_validate(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster__workers", 4),
        ("train__zero", {"stage": 3}),
        ("train__micro_batch_size", 2),
        ("train__activation_checkpointing", "full"),
        ("checkpoint__keep", 5),
        ("eval__interval", 7),
        ("monitoring__experiment", "other"),
        ("data__on_bad_shard", "skip"),
        ("data__cache_dir", "/cache"),
        ("data__cache_bytes", 1 << 30),
        ("data__sources", [{"path": "/corpus/*.txt", "max_passes": 9}]),
    ],
)
def test_changes_of_where_and_how_are_free(field: str, value: Any) -> None:
    assert check_changes(config(), config(**{field: value}), accepted=False) == []


@pytest.mark.parametrize(("field", "value"), [("train__lr", 2e-3), ("train__global_batch_size", 8)])
def test_changes_of_the_course_need_consent_and_are_recorded(field: str, value: Any) -> None:
    with pytest.raises(TrainError, match="--accept-changes"):
        check_changes(config(), config(**{field: value}), accepted=False)
    [change] = check_changes(config(), config(**{field: value}), accepted=True)
    assert (change.field, change.after) == (field.replace("__", "."), value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("model__n_layer", 3),
        ("data__streams", 6),
        ("train__precision", "bf16"),
        ("data__val_fraction", 0.3),
        ("data__packing", "documents"),
        ("data__sources", [{"path": "/corpus/*.txt", "weight": 2.0}]),
    ],
)
def test_changes_of_model_data_and_seed_are_refused_even_with_consent(field: str, value: Any) -> None:
    with pytest.raises(TrainError, match="keeps its model, data, seed"):
        check_changes(config(), config(**{field: value}), accepted=True)


def test_changes_between_equal_run_files_are_none() -> None:
    assert changes_between(config(), config()) == []
