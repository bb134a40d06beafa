"""Ranks that a GPU's memory does not suffice: the gang goes on with smaller passes, and the same results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monitoring.journal import last_values
from tests.end_to_end.headrace import events, records, run_file
from tests.faults.rank_world import Start, run_files
from tests.faults.test_rank_faults import run_gang
from trainer.micro_batch import FILE

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]

STEPS = 10
OUT_OF_MEMORY = [
    {"kind": "out_of_memory", "rank": 1, "step": 4, "phase": "backward"},
    {"kind": "out_of_memory", "rank": 0, "step": 7},
]


def file_of(folder: Path, name: str) -> Path:
    return run_file(
        folder,
        name,
        model={"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32},
        train={"max_steps": STEPS, "global_batch_size": 8, "micro_batch_size": "auto", "lr": 3e-3},
        checkpoint={"interval": 50, "snapshot_interval": 1},
        eval={"interval": 5, "max_tokens": 256},
    )


def column(out_dir: Path, name: str) -> list[Any]:
    """A field of each step that is believed."""
    return [record[name] for _, record in sorted(last_values(records(out_dir)).items())]


def test_out_of_memory_with_auto_goes_on_in_passes_of_half_the_size_with_the_same_losses(tmp_path: Path) -> None:
    whole, halved = tmp_path / "runs/whole", tmp_path / "runs/halved"
    assert run_files(tmp_path / "jobs", [Start(file_of(tmp_path, "whole"))])[0]["status"] == 0
    ends = run_gang(file_of(tmp_path, "halved"), OUT_OF_MEMORY)
    assert [end["status"] for end in ends] == ["finished", "finished"]
    sizes = [start["params"]["resolved.micro_batch_size"] for start in events(halved, "start")]
    assert sizes == [4, 2, 1]
    assert list(json.loads((halved / FILE).read_text()).values()) == [1]
    assert [event["resumed_step"] for event in events(halved, "start")] == [0, 3, 6]
    reasons = [death["reason"] for death in events(halved, "rank_dead")]
    assert ["the run goes on with 2" in reasons[0], "the run goes on with 1" in reasons[1]] == [True, True]
    assert column(halved, "sequence_hash") == column(whole, "sequence_hash")
    assert column(halved, "loss") == pytest.approx(column(whole, "loss"), rel=1e-5)
    assert len(column(halved, "loss")) == STEPS
