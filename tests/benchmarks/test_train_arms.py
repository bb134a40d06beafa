from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness.environment import environment
from benchmarks.train.arms import BARE, DDP, arms, read_sample, shown
from benchmarks.train.memory import Case, cases, declared_bucket_bytes, row
from benchmarks.train.plan import full, quick
from benchmarks.train.start import starts
from benchmarks.train.training import checked
from benchmarks.train.work import run_document
from model.config import GPTConfig
from model.gpt import GPT
from trainer.config import load_run_file
from trainer.plan_states import Partition, Sizes

SIZES = Sizes(total=1000, trained=1000, one_moment=0, largest=400, block=100, each=(400, 500, 60, 40))


def test_arms_have_all_stages_and_a_peer_without_a_framework() -> None:
    for ranks, plain in ((1, BARE), (2, DDP)):
        names = [arm.name for arm in arms(ranks)]
        assert plain in names
        assert len(names) == len(set(names))
        stages = range(4) if ranks > 1 else [2]
        assert {f"{who}, stage {stage}" for who in ("headrace", "DeepSpeed alone") for stage in stages} <= set(names)


def test_peers_scripts_are_there() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/train/peers"
    assert [arm.script for arm in arms(1) + arms(2) if arm.script and not (folder / arm.script).is_file()] == []


def test_shown_command_names_no_folder_of_this_machine() -> None:
    commands = [shown(arm) for arm in arms(1) + arms(2)] + [start.shown for start in starts(True) + starts(False)]
    assert not any(str(Path(sys.prefix).parent) in command or "/tmp" in command for command in commands)
    assert "torchrun --nproc-per-node 2 python -m trainer run.yaml" in " ".join(commands)


@pytest.mark.parametrize("make", [full, quick])
def test_run_file_is_one_that_train_takes(tmp_path: Path, make: Any) -> None:
    plan = make(tmp_path, "python")
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run_document(plan, plan.sequences, plan.steps, tmp_path / "run")))
    config = load_run_file(file)
    assert config.seq_len == plan.seq_len
    assert config.callbacks == (f"{Path(__file__).parents[2]}/benchmarks/train/stamps.py:on_event",)
    assert plan.warm_steps < plan.steps == config.train.max_steps


def test_environment_has_nothing_of_an_outer_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert not {"RANK", "MASTER_PORT"} & environment().keys()


def sample(*losses: float) -> dict[str, Any]:
    return {"losses": list(losses)}


def test_checked_gives_the_largest_difference() -> None:
    assert checked("arm", sample(3.0, 2.00005), sample(3.0, 2.0), 1e-4) == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("losses", "said"),
    [((3.0, 2.001), "differ from the bare loop's by 0.001"), ((3.0, float("nan")), "differ"), ((3.0,), "1 steps")],
)
def test_checked_refuses_another_computation(losses: tuple[float, ...], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        checked("arm", sample(*losses), sample(3.0, 2.0), 1e-4)


def test_read_sample_means_the_ranks_losses_and_times_from_the_start(tmp_path: Path) -> None:
    for rank, loss in enumerate((2.0, 4.0)):
        cpu = {"1": {"rank": 1.0 + rank, "tree": 9.0}}
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps({"losses": [loss], "seconds": [12.5], "cpu": cpu}))
    found = read_sample(tmp_path, 10.0)
    assert (found["losses"], found["seconds"]) == ([3.0], [2.5])
    assert found["cpu"]["1"] == {"rank": [1.0, 2.0], "tree": 9.0}


def test_read_sample_without_stamps_tells_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("nothing came of it")
    with pytest.raises(RuntimeError, match="nothing came of it"):
        read_sample(tmp_path, 0.0)


def test_nanogpt_with_our_weights_has_our_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks/train/peers"))
    from train_nanogpt import with_weights

    config = GPTConfig(
        vocab_size=128, real_vocab_size=128, n_layer=2, n_head=2, n_embd=32, max_seq_len=16, activation="gelu"
    )
    torch.manual_seed(0)
    ours = GPT(config)
    theirs = with_weights(config.to_dict(), ours.state_dict())
    tokens_bt = torch.randint(128, (2, 17))
    loss = ours(tokens_bt[:, :-1], tokens_bt[:, 1:]) / 32
    peer_loss = theirs(tokens_bt[:, :-1].contiguous(), tokens_bt[:, 1:].contiguous())
    loss.backward()
    peer_loss.backward()
    assert peer_loss.item() == pytest.approx(loss.item(), abs=1e-5)
    torch.testing.assert_close(theirs.lm_head.weight.grad, ours.wte.weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stage", "wanted"), [(0, 4000), (1, 8000), (2, 8000), (3, 4000 + 4 * (200 + 100))])
def test_declared_buckets_are_those_of_the_configuration(stage: int, wanted: int) -> None:
    partition = Partition(stage, 2, "fp32", 1, bucket=2000, prefetch=200, persistent=60)
    assert declared_bucket_bytes(SIZES, partition) == wanted


def test_row_of_fsdp2_declares_no_buckets() -> None:
    partition = Partition(3, 2, "fp32", 1, bucket=1000)
    found = row(Case("FSDP2", 3, 2), {"rest": 1, "peak": 2}, SIZES, partition)
    assert (found["buckets"], found["formula"]) == (0, 8000)


def test_cases_of_memory_have_each_arm_once() -> None:
    found = list(cases((1, 2, 4)))
    assert len(found) == len(set(found)) == 27
