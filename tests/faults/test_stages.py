"""A run of three stages: killed within stages and around their borders, it goes the same way bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.prepare import prepare
from monitoring.journal import last_values
from tests.end_to_end.headrace import events, headrace, records, run_file
from tests.trainer.worlds import run_jobs
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.store import list_checkpoints
from trainer.config import load_run_file
from trainer.launch import open_launch

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]

BORDERS, STEPS = (4, 8), 12
MODEL = {"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32, "dropout": 0.1}
CONSTANT = {"name": "constant", "warmup_ratio": 0.0}
STAGES: list[dict[str, Any]] = [
    {"until": {"steps": BORDERS[0]}, "freeze": ["wte.*", "wpe.*", "h.0.*"], "lr": 1e-2, "schedule": CONSTANT},
    {"until": {"ratio": BORDERS[1] / STEPS}, "schedule": {"name": "linear", "warmup_ratio": 0.5, "min_lr": 0.0}},
    {"freeze": ["wte.*", "h.1.*"], "schedule": CONSTANT},
]


def stages_file(
    folder: Path, name: str, zero_stage: int = 2, policy: str = "stop", checkpoint: dict[str, Any] | None = None
) -> Path:
    train = {
        "on_bad_numbers": policy,
        "max_steps": STEPS,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "lr": 3e-3,
        "stages": STAGES,
    }
    return run_file(
        folder,
        name,
        model=MODEL,
        train={**train, "zero": {"stage": zero_stage}},
        checkpoint=checkpoint or {"interval": 1000, "snapshot_interval": 1, "keep": 100},
        eval={"interval": 1000, "max_tokens": 256},
    )


def kill(rank: int, step: int, phase: str) -> dict[str, Any]:
    return {"kind": "kill", "rank": rank, "step": step, "phase": phase}


def jobs_of(file: Path, faults: list[dict[str, Any]], world_size: int = 2) -> list[dict[str, Any]]:
    """An attempt for each fault that kills, and one that comes to the end."""
    config = load_run_file(file)
    dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
    spec = {**open_launch(config, dataset, False).run_spec({}), "threads": 1}
    return [
        {"world_size": world_size, "dies": fault is not None, "spec": {**spec, "faults": [fault] if fault else []}}
        for fault in (*faults, None)
    ]


def run_attempts(folder: Path, jobs: list[dict[str, Any]]) -> None:
    folder.mkdir()
    run_jobs("tests.faults.stage_world", folder, jobs)


def losses(out_dir: Path) -> dict[int, str]:
    return {step: record["loss_hex"] for step, record in last_values(records(out_dir)).items()}


def starts(out_dir: Path) -> list[tuple[int, str]]:
    """Where each attempt went on, and from what."""
    return [(event["resumed_step"], Path(event["restored_from"]).name) for event in events(out_dir, "start")]


def weights(out_dir: Path, step: int) -> dict[str, torch.Tensor]:
    [entry] = [entry for entry in list_checkpoints(out_dir) if entry.step == step]
    assert entry.manifest is not None
    with CheckpointReader(entry.address, entry.manifest) as reader:
        return {name: reader.full(name) for name in (*entry.manifest.shapes, *entry.manifest.frozen)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def calm(folder: Path) -> Path:
    """An undisturbed run."""
    run_attempts(folder / "calm-jobs", jobs_of(stages_file(folder, "calm"), []))
    return folder / "runs/calm"


def test_stages_save_at_borders_and_begin_with_a_fresh_optimizer(calm: Path) -> None:
    entries = list_checkpoints(calm)
    assert [entry.step for entry in entries] == [*BORDERS, STEPS]
    manifests = [entry.manifest for entry in entries if entry.manifest is not None]
    assert [manifest.header.stage for manifest in manifests] == [0, 1, 2]
    updates = [{saved.step for record in manifest.files for saved in record.spans} for manifest in manifests]
    assert updates == [{4.0}, {4.0}, {4.0}]
    assert [(event["stage"], event["step"]) for event in events(calm, "stage")] == [(1, 4), (2, 8)]
    assert len(events(calm, "start")) == 1
    rates = [record["lr"] for record in records(calm) if "event" not in record]
    assert rates == pytest.approx([1e-2] * 4 + [1.5e-3, 3e-3, 1.5e-3, 0.0] + [3e-3] * 4)


def test_stages_change_what_they_do_not_freeze(calm: Path) -> None:
    ends = [weights(calm, step) for step in (*BORDERS, STEPS)]
    for number, frozen in ((1, ()), (2, ("wte.", "h.1."))):
        same = {name for name in ends[0] if torch.equal(ends[number - 1][name], ends[number][name])}
        assert same == {name for name in ends[0] if name.startswith(frozen or "-")}


# The fault, and where the next attempt goes on from what.
KILLS = {
    "in a stage of frozen initial weights": (kill(1, 3, "forward"), (2, "memory")),
    "while the border's checkpoint is written": (kill(0, 4, "before-rename"), (4, "memory")),
    "after the border's checkpoint": (kill(1, 4, "after-save"), (4, "step-00000004")),
    "before the next stage's first step": (kill(0, 5, "data"), (4, "step-00000004")),
    "in a stage that freezes what was trained": (kill(1, 11, "forward"), (10, "memory")),
}
MANY = [
    "in a stage of frozen initial weights",
    "before the next stage's first step",
    "in a stage that freezes what was trained",
]


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.long
def test_stages_at_other_zero_stages_survive_kills_bit_for_bit(folder: Path, zero_stage: int) -> None:
    name = f"calm-{zero_stage}"
    run_attempts(folder / f"{name}-jobs", jobs_of(stages_file(folder, name, zero_stage), []))
    check_kills(folder, folder / "runs" / name, MANY, zero_stage)


def test_stages_survive_kills_within_and_before_a_stage_bit_for_bit(folder: Path, calm: Path) -> None:
    check_kills(folder, calm, MANY[1:], zero_stage=2)


@pytest.mark.long
def test_stages_survive_kills_within_and_around_borders_bit_for_bit(folder: Path, calm: Path) -> None:
    check_kills(folder, calm, list(KILLS), zero_stage=2)


def check_kills(folder: Path, calm: Path, names: list[str], zero_stage: int) -> None:
    """A run killed once, and gone on with, is the undisturbed run."""
    folder = folder / f"killed-{zero_stage}-{len(names)}"
    folder.mkdir()
    expected, jobs, out_dirs = losses(calm), [], []
    assert sorted(expected) == list(range(1, STEPS + 1))
    for number, name in enumerate(names):
        file = stages_file(folder, f"killed-{zero_stage}-{number}", zero_stage)
        jobs += jobs_of(file, [KILLS[name][0]])
        out_dirs.append(folder / "runs" / file.stem)
    run_attempts(folder / f"killed-{zero_stage}-jobs", jobs)
    for name, out_dir in zip(names, out_dirs, strict=True):
        assert (out_dir / "faults/0000.json").exists(), name
        assert starts(out_dir)[1] == KILLS[name][1], name
        assert losses(out_dir) == expected, name
        found = weights(out_dir, STEPS)
        assert [key for key, value in weights(calm, STEPS).items() if not torch.equal(found[key], value)] == [], name


@pytest.mark.long
def test_frozen_weights_of_another_run_are_there_after_a_kill_before_any_checkpoint(folder: Path, calm: Path) -> None:
    """Memory does not hold them."""
    train = {"max_steps": 4, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3, "freeze": ["wte.*", "h.0.*"]}
    checkpoint = {"interval": 1000, "snapshot_interval": 1}
    evaluation = {"interval": 1000, "max_tokens": 256}
    calm_file, killed = (
        run_file(
            folder, name, model=MODEL, train=train, checkpoint=checkpoint, eval=evaluation, init_from=f"{calm}@{STEPS}"
        )
        for name in ("from-calm", "from-killed")
    )
    run_attempts(folder / "from-jobs", [*jobs_of(calm_file, []), *jobs_of(killed, [kill(1, 3, "forward")])])
    assert starts(folder / "runs/from-calm") == [(0, f"calm@{STEPS}")]
    assert starts(folder / "runs/from-killed")[1] == (2, "memory")
    assert losses(folder / "runs/from-killed") == losses(folder / "runs/from-calm")
    found, origin = weights(folder / "runs/from-killed", 4), weights(calm, STEPS)
    same = {name for name in origin if torch.equal(found[name], origin[name])}
    assert same == {name for name in origin if name.startswith(("wte.", "h.0."))}


@pytest.mark.long
def test_border_checkpoint_that_is_damaged_takes_the_run_back_to_the_stage_before(folder: Path, calm: Path) -> None:
    file = stages_file(folder, "damaged", checkpoint={"interval": 2, "snapshot_interval": 0, "keep": 100})
    dies, goes_on = jobs_of(file, [kill(1, 6, "forward")])
    run_attempts(folder / "damaged-jobs", [dies])
    out_dir = folder / "runs/damaged"
    [path] = (out_dir / f"checkpoints/step-{BORDERS[0]:08d}").glob("rank-00001-of-00002.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    run_attempts(folder / "went-on-jobs", [goes_on])
    assert starts(out_dir)[1] == (2, "step-00000002")
    assert losses(out_dir) == losses(calm)


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_bad_numbers_after_a_border_leave_the_stage(folder: Path, policy: str) -> None:
    """A rollback goes back to the border's checkpoint, in the stage that follows it."""
    file = stages_file(folder, policy, policy=policy)
    [job] = jobs_of(file, [])
    job["spec"]["faults"] = [{"kind": "nan_gradient", "rank": 1, "step": BORDERS[0] + 2, "phase": "forward"}]
    run_attempts(folder / f"{policy}-jobs", [job])
    out_dir = folder / "runs" / policy
    assert [event["resumed_step"] for event in events(out_dir, "bad_numbers")] == [5 if policy == "skip" else 4]
    assert [(event["stage"], event["step"]) for event in events(out_dir, "stage")] == [(1, 4), (2, 8)]
    assert sorted(losses(out_dir)) == list(range(1, STEPS + 1))
    manifests = [entry.manifest for entry in list_checkpoints(out_dir) if entry.manifest is not None]
    assert {saved.step for record in manifests[-1].files for saved in record.spans} == {4.0}


@pytest.mark.long
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_rollback_past_a_damaged_border_goes_on_in_the_stage_before(folder: Path, calm: Path, zero_stage: int) -> None:
    """The ranks build the earlier stage's engine themselves, and cross the border again without the bad sequences."""
    checkpoint = {"interval": 2, "snapshot_interval": 1, "keep": 100}
    name, bad = f"back-{zero_stage}", BORDERS[0] + 2
    file = stages_file(folder, name, zero_stage, policy="rollback", checkpoint=checkpoint)
    out_dir = folder / "runs" / name
    [job] = jobs_of(file, [])
    border = out_dir / f"checkpoints/step-{BORDERS[0]:08d}/rank-00001-of-00002.safetensors"
    job["damage"] = {"path": str(border), "step": bad}
    job["spec"]["faults"] = [{"kind": "nan_gradient", "rank": 1, "step": bad, "phase": "forward"}]
    run_attempts(folder / f"{name}-jobs", [job])
    [told] = events(out_dir, "bad_numbers")
    assert told["resumed_step"] == 2
    assert [(event["stage"], event["step"]) for event in events(out_dir, "stage")] == [(1, 4), (0, 2), (1, 4), (2, 8)]
    assert len(events(out_dir, "start")) == 1
    assert sorted(losses(out_dir)) == list(range(1, STEPS + 1))
    if zero_stage == 2:  # the undisturbed run's
        assert [losses(out_dir)[step] for step in range(1, bad)] == [losses(calm)[step] for step in range(1, bad)]
    [manifest] = [entry.manifest for entry in list_checkpoints(out_dir) if entry.step == STEPS]
    assert manifest is not None and {saved.step for record in manifest.files for saved in record.spans} == {4.0}


@pytest.mark.long
def test_stages_of_a_gang_survive_a_kill_after_each_border(
    folder: Path, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `headrace train`: the ranks are replaced within the gang, and go on from the border or from memory."""
    faults = [kill(1, BORDERS[0] + 1, "data"), kill(0, BORDERS[1] + 3, "forward")]
    monkeypatch.setenv("HEADRACE_FAULTS", json.dumps(faults))
    done = headrace("train", stages_file(folder, "gang"))
    assert done.returncode == 0, done.stderr
    out_dir = folder / "runs/gang"
    assert len(events(out_dir, "start")) == 3
    assert losses(out_dir) == losses(calm)
