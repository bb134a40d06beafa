from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.headrace import ROOT, environment, events, run_file, steps

pytestmark = pytest.mark.slow

# What training may still import after `preload`: parts of libraries that cost nothing.
FEW_MODULES = 25

SCRIPT = """
import json, os, resource, sys
from pathlib import Path
from data_shards.prepare import prepare
from trainer.config import load_run_file
from trainer.launch import open_launch
from trainer.rank import main, preload
preload()
needless = [name for name in ("mlflow", "torch._inductor.compile_fx") if name in sys.modules]
threads = len(os.listdir("/proc/self/task"))
config = load_run_file(Path(sys.argv[1]))
dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
spec = {**open_launch(config, dataset, False).run_spec({}), "rank": 0, "world_size": 1, "local_rank": 0, "attempt": 1}
before = set(sys.modules)
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
status = main({**spec, "journal_path": str(Path(config.out_dir) / "journal/attempt-0001.jsonl")})
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - children
new = sorted(set(sys.modules) - before)
print(json.dumps({"status": status, "threads": threads, "new": new, "children": children, "needless": needless}))
"""


def test_preload_leaves_one_thread_and_training_little_to_import(tmp_path: Path) -> None:
    """What is imported after the fork is paid at every restart."""
    file = run_file(tmp_path, "one", train__max_steps=2)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)],
        cwd=ROOT,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["status"] == 0
    assert answer["threads"] <= 2
    assert len(answer["new"]) <= FEW_MODULES, " ".join(answer["new"])
    assert answer["needless"] == []  # which each take a second, and no run uses
    assert answer["children"] == 0  # no compiler was asked what it can do


@pytest.mark.timeout(200)
def test_torchrun_on_two_ranks_gives_the_losses_of_one_process(tmp_path: Path) -> None:
    """`python -m trainer` and torchrun share the gang's entry, and prepare the corpus themselves."""
    model = {"preset": "gpt2-tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_len": 32}
    launchers = {
        "one": ["-m", "trainer"],
        "two": ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "trainer"],
    }
    for name, words in launchers.items():
        file = run_file(tmp_path, name, model=model, train__max_steps=5)
        done = subprocess.run(
            [sys.executable, *words, str(file)],
            cwd=ROOT,
            env={**environment(), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
    one, two = steps(tmp_path / "runs/one"), steps(tmp_path / "runs/two")
    assert [record["sequence_hash"] for record in one] == [record["sequence_hash"] for record in two]
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
    assert [record["loss"] for record in two] == pytest.approx([record["loss"] for record in one], rel=1e-5)
    assert [event["world_size"] for event in events(tmp_path / "runs/two", "start")] == [2]
    assert (tmp_path / "runs/mlflow.db").exists()


def test_resume_after_the_corpus_grew_keeps_its_data_and_lost_checkpoints_are_an_error(tmp_path: Path) -> None:
    """A run goes on with the version of the dataset that it began with, and never silently from step 0."""

    def train(steps: int) -> subprocess.CompletedProcess[str]:
        file = run_file(tmp_path, "one", train__max_steps=steps)
        command = [sys.executable, "-m", "trainer", str(file), "--accept-changes"]
        return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100)

    assert train(5).returncode == 0
    (tmp_path / "corpus/new.txt").write_text("the mill grinds on\n" * 500)
    grown = train(8)
    assert grown.returncode == 0, grown.stderr
    assert "the corpus has changed since the run's first start" in grown.stderr
    out_dir = tmp_path / "runs/one"
    assert len({event["tags"]["dataset.fingerprint"] for event in events(out_dir, "start")}) == 1
    assert [record["step"] for record in steps(out_dir)] == list(range(1, 9))
    shutil.rmtree(out_dir / "checkpoints")
    lost = train(9)
    assert lost.returncode == 2
    assert "the journal says that step 8 was saved, but no checkpoint is there" in lost.stderr
