"""What `headrace profile` refuses and prints, without a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.profile import to_dict, to_table, trace_paths
from tests.end_to_end.headrace import run_file
from tests.monitoring.journals import start, write_journal
from trainer.config import load_run_file
from trainer.phase_shares import ROWS, StepShares
from trainer.profiling import WARM_UP_STEPS, profile_config, trace_path

FAST = StepShares(3, 1.0, {**dict.fromkeys(ROWS, 0.0), "forward": 0.25, "backward": 0.75})
SLOW = StepShares(3, 2.0, {**dict.fromkeys(ROWS, 0.0), "forward": 0.5, "backward": 1.5})
PATHS = [Path("/p/rank-0.json.gz"), Path("/p/rank-1.json.gz")]


def test_table_has_the_mean_its_shares_and_the_slowest_rank() -> None:
    lines = to_table([FAST, SLOW], PATHS).splitlines()
    [forward] = [line for line in lines if line.startswith("forward")]
    assert forward.split() == ["forward", "0.3750", "25.0%", "0.2500", "to", "0.5000", "(most:", "rank", "1)"]
    assert lines[-2:] == [f"  {path}" for path in PATHS]


def test_json_has_shares_that_sum_to_one_and_each_ranks_own() -> None:
    told = to_dict([FAST, SLOW], PATHS)
    assert (told["steps"], told["ranks"], told["step_seconds"]) == (3, 2, 1.5)
    assert sum(part["share"] for part in told["parts"].values()) == 1.0
    assert [rank["parts"]["backward"]["seconds"] for rank in told["by_rank"]] == [0.75, 1.5]
    assert told["by_rank"][1]["trace"] == "/p/rank-1.json.gz"


def test_traces_of_a_run_that_was_cut_off_are_none(tmp_path: Path) -> None:
    assert trace_paths(tmp_path) is None
    write_journal(tmp_path, start(world_size=2))
    trace_path(tmp_path, 0).touch()
    assert trace_paths(tmp_path) is None
    trace_path(tmp_path, 1).touch()
    assert trace_paths(tmp_path) == [tmp_path / "rank-0.json.gz", tmp_path / "rank-1.json.gz"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--steps", "0"], "--steps 0: must be at least 1"), (["--to", "corpus"], "must be a folder that is not there")],
)
def test_what_cannot_be_profiled_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_file(tmp_path, "one")
    monkeypatch.chdir(tmp_path)
    assert main(["profile", str(file), *words]) == 2
    assert message in capsys.readouterr().err


def test_profiled_run_shares_the_dataset_and_nothing_else(tmp_path: Path) -> None:
    config = load_run_file(run_file(tmp_path, "one", checkpoint__dir="saved"))
    profiled = type(config).model_validate(profile_config(config, tmp_path / "p", 5).model_dump(mode="json"))
    assert profiled.data_dir == config.data_dir
    assert profiled.checkpoint_dir == tmp_path / "p/checkpoints"
    assert (profiled.train.max_steps, profiled.train.max_tokens) == (WARM_UP_STEPS + 6, None)
    assert profiled.model == config.model
