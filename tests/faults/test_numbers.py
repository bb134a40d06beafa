"""NaN in a loss, NaN in a gradient, a spike: by policy, alike on all ranks, and weights never NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cluster.cli import main
from monitoring.journal import last_values
from monitoring.ledger import ledger, problems
from tests.end_to_end.headrace import WORDS, events, records, run_file, steps
from tests.faults.rank_world import Start, run_files

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]

STEPS, BATCH = 24, 8
MODEL = {"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32, "dropout": 0.1}


def file_of(folder: Path, name: str, *, steps: int = STEPS, every: int = 1, stage: int = 2, **train: Any) -> Path:
    """A run that keeps all its checkpoints."""
    settings = {"max_steps": steps, "global_batch_size": BATCH, "micro_batch_size": 2, "lr": 3e-3, **train}
    return run_file(
        folder,
        name,
        model=MODEL,
        train={**settings, "zero": {"stage": stage}},
        checkpoint={"interval": every, "keep": 100},
        eval={"interval": 100, "max_tokens": 256},
    )


def fault(kind: str, rank: int, step: int) -> dict[str, Any]:
    return {"kind": kind, "rank": rank, "step": step}


def assert_weights_are_finite(out_dir: Path, checkpoints: int | None = None) -> None:
    """checkpoints: how many there are, where steps do not follow faster than saves, which are put off then."""
    folders = sorted((out_dir / "checkpoints").iterdir())
    assert len(folders) == checkpoints if checkpoints is not None else len(folders) > 1
    for path in (path for folder in folders for path in folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            assert bool(tensor.isfinite().all()), (path, name)


def hashes(out_dir: Path) -> list[str]:
    return [record["sequence_hash"] for record in steps(out_dir)]


def losses(out_dir: Path) -> dict[int, str]:
    return {step: record["loss_hex"] for step, record in last_values(records(out_dir)).items()}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder that all runs share, and the hashes of an undisturbed run's first steps."""
    folder = tmp_path_factory.mktemp("numbers")
    file = file_of(folder, "clean", steps=STEPS + 3, every=100)
    assert run_files(folder / "clean-jobs", [Start(file)])[0]["status"] == 0
    return folder, hashes(folder / "runs/clean")


@pytest.mark.parametrize("stages", [(2,), pytest.param((0, 1, 3), marks=pytest.mark.long)])
def test_skip_of_bad_numbers_takes_the_next_sequences_and_keeps_weights_finite(
    stages: tuple[int, ...], clean: tuple[Path, list[str]]
) -> None:
    """A NaN loss at step 3 on rank 1, a NaN gradient at step 5 on rank 0, a spike at step 20 on rank 1."""
    folder, undisturbed = clean
    faults = [fault("nan_loss", 1, 3), fault("nan_gradient", 0, 5), fault("spike", 1, 20)]
    policy = {"on_bad_numbers": "skip", "spike_deviations": 8.0}
    files = {stage: file_of(folder, f"skip-{stage}", stage=stage, **policy) for stage in stages}
    answers = run_files(folder / f"skip-jobs-{stages[0]}", [Start(file, faults) for file in files.values()])
    for stage, answer in zip(stages, answers, strict=True):
        out_dir = folder / f"runs/skip-{stage}"
        assert answer["status"] == 0
        found = events(out_dir, "bad_numbers")
        assert [(event["step"], event["what"]) for event in found] == [(3, "loss"), (5, "grad_norm"), (20, "spike")]
        assert {event["action"] for event in found} == {"skip"}
        assert [event["excluded"] for event in found] == [[[16, 24]], [[40, 48]], [[168, 176]]]
        assert [len(event["sequences"]) for event in found] == [BATCH] * 3
        assert [record["step"] for record in steps(out_dir)] == list(range(1, STEPS + 1))
        # The 3rd, 6th and 22nd batches of the order were left out, and no other was.
        assert hashes(out_dir) == [name for index, name in enumerate(undisturbed) if index not in (2, 5, 21)]
        assert all(record["loss"] < 7 and record["grad_norm"] < 1e3 for record in steps(out_dir))
        told = [[line for line in log if "(skip)" in line] for log in answer["logs"]]
        assert told[0] == told[1]
        assert len(told[0]) == 3
        assert_weights_are_finite(out_dir)


def test_rollback_of_a_nan_replays_exactly_and_agrees_with_skip_to_the_last_bit(
    clean: tuple[Path, list[str]],
) -> None:
    """The checkpoint is at step 8, NaNs are at steps 10 and 11: no update was made, so both lead to the same weights.

    The second time the checkpoint knows nothing of what the first one left out.
    """
    folder, _ = clean
    faults = [fault("nan_loss", 1, 10), fault("nan_loss", 0, 11)]
    files = [
        file_of(folder, f"nan-{policy}", steps=16, every=4, on_bad_numbers=policy) for policy in ("skip", "rollback")
    ]
    answers = run_files(folder / "rollback-jobs", [Start(file, faults) for file in files])
    assert [answer["status"] for answer in answers] == [0, 0]
    out_dir = folder / "runs/nan-rollback"
    ran = [(record["step"], record["loss_hex"]) for record in steps(out_dir)]
    assert [step for step, _ in ran] == [*range(1, 10), 9, 10, 9, 10, *range(11, 17)]
    assert ran[8] == ran[9] == ran[11]
    assert ran[10] == ran[12]
    assert losses(out_dir) == losses(folder / "runs/nan-skip")
    found = [(event["step"], event["action"], event["excluded"]) for event in events(out_dir, "bad_numbers")]
    assert found == [(10, "rollback", [[72, 80]]), (11, "rollback", [[88, 96]])]
    assert problems(ledger(records(out_dir))) == []
    assert_weights_are_finite(out_dir, 4)


@pytest.mark.long
def test_rollback_of_a_spike_leaves_out_the_steps_before_it_too(clean: tuple[Path, list[str]]) -> None:
    folder, undisturbed = clean
    file = file_of(folder, "spike", steps=22, every=18, on_bad_numbers="rollback", spike_deviations=8.0)
    [answer] = run_files(folder / "spike-jobs", [Start(file, [fault("spike", 0, 21)])])
    assert answer["status"] == 0
    out_dir = folder / "runs/spike"
    [event] = events(out_dir, "bad_numbers")
    assert (event["step"], event["what"], event["excluded"]) == (21, "spike", [[144, 168]])
    believed = last_values(records(out_dir))
    assert list(believed) == list(range(1, 23))
    assert [record["sequence_hash"] for record in believed.values()] == [*undisturbed[:18], *undisturbed[21:25]]
    assert_weights_are_finite(out_dir, 2)


@pytest.mark.long
def test_rollback_from_the_same_step_again_and_again_stops_with_a_diagnosis(clean: tuple[Path, list[str]]) -> None:
    folder, _ = clean
    file = file_of(folder, "bounded", steps=10, every=4, on_bad_numbers="rollback")
    [answer] = run_files(folder / "bounded-jobs", [Start(file, [fault("nan_gradient", 1, 6)] * 5)])
    out_dir = folder / "runs/bounded"
    found = events(out_dir, "bad_numbers")
    assert [(event["step"], event["action"], event["tries"]) for event in found] == [
        (6, "rollback", 1),
        (6, "rollback", 2),
        (6, "rollback", 3),
        (6, "stop", 4),
    ]
    assert "step 6: the gradient's norm must be a finite number, found inf, 4 times in a row" in answer["error"]


def test_stop_at_a_nan_names_the_sequences_and_leaves_the_last_good_step_to_go_on_from(
    clean: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, undisturbed = clean
    file = file_of(folder, "stop", steps=10, every=100)
    starts = [Start(file, [fault("nan_loss", 0, 7)])]
    [stopped] = run_files(folder / "stop-jobs", starts)
    assert stopped["error"].startswith(
        "step 7: the loss must be a finite number, found nan. The update was not made, and the weights of step 6 are "
        "saved. Its sequences are at positions 48 to 55: 48 (train-0"
    )
    out_dir = folder / "runs/stop"
    [event] = events(out_dir, "bad_numbers")
    assert (event["action"], event["excluded"], len(event["sequences"])) == ("stop", [], BATCH)
    assert_weights_are_finite(out_dir, 1)
    assert main(["data", "show", str(out_dir), "--excluded", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["sequence"]["number"] for one in shown] == list(range(48, 56))
    assert [
        [one["sequence"]["number"], one["sequence"]["shard"], one["sequence"]["first_token"]] for one in shown
    ] == event["sequences"]
    assert {word for one in shown for word in one["sequence"]["segments"][-1]["text"].split()[1:-1]} <= set(WORDS)
    assert main(["data", "show", str(out_dir), "--excluded"]) == 0
    assert capsys.readouterr().out.startswith("step 7, bad loss, stop: sequence 48 of train")
    [went_on] = run_files(folder / "stop-again-jobs", [Start(file)])
    assert went_on["status"] == 0
    assert [record["step"] for record in steps(out_dir)] == list(range(1, 11))
    assert hashes(out_dir) == undisturbed[:10]
