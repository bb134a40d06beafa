"""Wrong input as a user gives it: exit status 2 and one message, before anything is started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from tests.end_to_end.headrace import run_file


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The message of a command that must be refused."""
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__learning_rate": 1.0}, "train.learning_rate: unknown field"),
        ({"model__n_head": 3}, "model.n_embd is 32, which model.n_head = 3 does not divide"),
        ({"data__sources": ["absent/*.txt"]}, "matches no file"),
        ({"data__tokenizer": {"train": "bpe", "vocab_size": 10}}, "data.tokenizer"),
        (
            {"train__precision": "fp16", "cluster": {"workers": 2, "gpus_per_worker": 0}},
            "train.precision: fp16 needs a GPU",
        ),
        ({"train__deepspeed": {"gradient_clipping": 1}}, "train.grad_clip"),
        ({"train__micro_batch_size": 9}, "train.micro_batch_size: must not exceed train.global_batch_size (8)"),
        ({"cluster__workers": [4, 1]}, "cluster.workers: must be a number, auto, or [FEWEST, MOST]"),
        ({"cluster__wrokers": 2}, "cluster.wrokers: unknown field"),
        ({"out_dir": "/proc/nowhere"}, "out_dir: /proc/nowhere must be a folder that can be written"),
    ],
)
def test_run_file_wrong_is_refused_before_ray_starts(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("ray.init", lambda *args, **kwargs: pytest.fail("Ray was started"))
    assert message in refusal(capsys, "run", run_file(tmp_path, "bad", **changes))


def test_run_file_absent_or_broken_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "absent.yaml: cannot read the run file" in refusal(capsys, "run", tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("train: {lr: 1\nmodel: [")
    assert "broken.yaml:2:" in refusal(capsys, "run", broken)


def test_run_that_does_not_exist_is_refused_with_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "absent" in refusal(capsys, "checkpoint", "list", "absent", "--runs-dir", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("corpus", "source", "message"),
    [
        ({"a.txt": b""}, {"path": "own/*"}, "data.sources: hold no training document"),
        ({"a.txt": b"fine\n\xff\xfe\n"}, {"path": "own/*"}, "a.txt"),
        ({"a.jsonl": b'{"text": "fine"}\n{"text": \n'}, {"path": "own/*"}, "a.jsonl:2"),
        ({"a.jsonl": b'{"text": "fine"}\n{"body": "x"}\n'}, {"path": "own/*"}, "a.jsonl:2"),
        ({"a.txt": b"too small\n" * 5}, {"path": "own/*", "document": "line"}, "validation set"),
    ],
)
def test_corpus_wrong_is_refused_by_the_serial_way_with_file_and_line(
    corpus: dict[str, bytes], source: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """`python -m trainer` shares the preparation with `headrace run`, and needs no Ray for the answer."""
    import sys

    own = tmp_path / "own"
    own.mkdir()
    for name, data in corpus.items():
        (own / name).write_bytes(data)
    file = run_file(tmp_path, "bad", data__sources=[source])
    done = subprocess.run(
        [sys.executable, "-m", "trainer", str(file)], capture_output=True, text=True, timeout=60, cwd=Path.cwd()
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
