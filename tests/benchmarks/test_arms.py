from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.data.arms import Arm, compare, require_equal, run_arm
from benchmarks.data.arms_ray import run_file, steady_rate
from benchmarks.data.corpus import Corpus
from benchmarks.harness.processes import pinned

SCRIPT = """
import json, pathlib, sys
asked = json.loads(sys.argv[-1])
with pathlib.Path(asked["log"]).open("a") as log:
    log.write(asked["name"] + ("?" if asked["verify"] else "") + " ")
print("noise")
digest = asked["digest"] if asked["verify"] else None
print(json.dumps({"wall_seconds": 2.0, "cpu_seconds": asked["cpu"], "digest": digest}))
"""
# Fails unless the folder that it is given is there and empty.
EMPTY = """
import json, pathlib, sys
assert not list(pathlib.Path(json.loads(sys.argv[-1])["out"]).iterdir())
"""


def arm(folder: Path, name: str, cpu: float = 1.0, digest: str = "same", script: str = SCRIPT) -> Arm:
    path = folder / f"{name}.py"
    path.write_text(script)
    options = {"name": name, "cpu": cpu, "digest": digest, "log": str(folder / "log")}
    return Arm(name, sys.executable, path, options, frozenset(os.sched_getaffinity(0)))


def test_compare_verifies_all_arms_first_and_then_runs_them_in_turn(tmp_path: Path) -> None:
    found = compare("test", [arm(tmp_path, "a", cpu=1.0), arm(tmp_path, "b", cpu=4.0)], repetitions=2)
    assert (tmp_path / "log").read_text().split() == ["a?", "b?", "a", "b", "b", "a"]
    assert [sample["cpu_seconds"] for sample in found.samples["b"]] == [4.0, 4.0]
    assert found.digests == {"a": "same", "b": "same"}


def test_compare_of_arms_that_put_out_different_things_times_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not timed: a: same; b: other"):
        compare("test", [arm(tmp_path, "a"), arm(tmp_path, "b", digest="other")], repetitions=2)
    assert (tmp_path / "log").read_text().split() == ["a?", "b?"]


def test_run_arm_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"a: exit status 1: .*no such peer"):
        run_arm(arm(tmp_path, "a", script="import sys; sys.exit('no such peer')"), verify=False)


def test_run_arm_gives_an_empty_folder_and_removes_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "left").mkdir(parents=True)
    made = arm(tmp_path, "a", script=EMPTY + SCRIPT)
    run_arm(Arm(made.name, made.python, made.script, made.options, made.cores, out), verify=False)
    assert not out.exists()


def test_require_equal_of_equal_digests_is_silent() -> None:
    require_equal("test", {"a": "1", "b": "1"})


def test_pinned_gives_the_cores_back() -> None:
    before = os.sched_getaffinity(0)
    with pinned(frozenset({min(before)})):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_steady_rate_leaves_out_the_first_unit_of_each_worker() -> None:
    # Two workers, a second a unit of 10 bytes, after a start of 7 seconds.
    finished = [(8.0, 10), (8.0, 10), (9.0, 10), (9.0, 10), (10.0, 10), (10.0, 10)]
    assert steady_rate(finished, workers=2) == 20.0
    assert steady_rate([(time, 10) for time in (8.0, 9.0, 10.0)], workers=1) == 10.0


def test_steady_rate_of_too_few_units_is_refused() -> None:
    with pytest.raises(ValueError, match="larger corpus"):
        steady_rate([(1.0, 10), (2.0, 10)], workers=2)


def test_run_file_of_a_corpus_is_one_that_prepare_takes(tmp_path: Path) -> None:
    from trainer.config import load_run_file

    corpus = Corpus("small", tmp_path / "small.jsonl", 1, 10, "")
    file = tmp_path / "prepare.yaml"
    file.write_text(json.dumps(run_file(corpus, tmp_path / "tokenizer.json", tmp_path / "data", workers=1)))
    assert load_run_file(file).data.sources[0].path == str(corpus.path)
