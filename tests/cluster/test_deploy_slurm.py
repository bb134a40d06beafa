"""The Slurm script with stand-ins for Slurm, Ray and Headrace: what it starts where, and what it makes of signals."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.end_to_end.headrace import ROOT, wait_until

SCRIPT = ROOT / "cluster/deploy/headrace.sbatch"
TELL = 'echo "$(basename "$0") $*" >> "$TOLD"\n'
# A node of Ray lasts until it is ended; a run that is asked to stop saves and ends with status 3.
STAND_INS = {
    "scontrol": TELL + 'if [ "$1" = show ]; then printf "n1\\nn2\\nn3\\n"; fi',
    "hostname": 'echo "10.0.0.1 192.168.0.1"',
    "srun": TELL + 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "environment/bin/ray": TELL + 'echo "token $RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> "$TOLD"; exec tail -f /dev/null',
    "environment/bin/python": 'cat > /dev/null; echo "python $2 $3" >> "$TOLD"\n'
    'until [ "$(grep -c "^token" "$TOLD")" -ge "$3" ]; do sleep 0.02; done',  # so many nodes
    "environment/bin/headrace": 'trap "echo saved >> $TOLD; kill %1; exit 3" TERM\n'
    + TELL
    + 'if [ -n "$STATUS" ]; then exit "$STATUS"; fi\ntail -f /dev/null & wait',
}


def write_stand_ins(folder: Path) -> None:
    for name, text in STAND_INS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)


@contextmanager
def job(folder: Path, status: str = "") -> Iterator[subprocess.Popen[str]]:
    """The script as Slurm starts it on three nodes. status: with which Headrace ends at once; empty: it runs."""
    write_stand_ins(folder)
    (folder / "told").touch()
    slurm = {"SLURM_JOB_ID": "70123", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "4"}
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "HEADRACE_ENVIRONMENT": str(folder / "environment")}
    environment = {**os.environ, **slurm, **own, "TOLD": str(folder / "told"), "STATUS": status}
    process = subprocess.Popen(
        ["bash", SCRIPT, "mill.yaml"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # nothing of it is left, as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().splitlines()


def is_gone(process: subprocess.Popen[str]) -> bool:
    """Whether nothing of the job's processes is left."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_slurm_job_starts_a_head_then_workers_then_the_run_whose_status_it_has(status: int, tmp_path: Path) -> None:
    with job(tmp_path, str(status)) as process:
        process.communicate(timeout=60)
    assert process.returncode == status
    lines = told(tmp_path)
    starts = [line for line in lines if line.startswith("ray start")]
    assert len(starts) == 3
    assert "--head --node-ip-address=10.0.0.1 --port=20123" in starts[0]
    assert all("--address=10.0.0.1:20123" in line for line in starts[1:])
    nodes = [word for line in lines if line.startswith("srun") for word in line.split() if "--nodelist" in word]
    assert sorted(nodes) == ["--nodelist=n1", "--nodelist=n2", "--nodelist=n3"]
    assert [line for line in lines if line.startswith("python")] == [
        "python 10.0.0.1:20123 1",
        "python 10.0.0.1:20123 3",
    ]
    assert "headrace run mill.yaml --address 10.0.0.1:20123" in lines
    assert not any("requeue" in line for line in lines)  # nobody asked the run to stop
    wait_until(lambda: is_gone(process), "all its processes ended", 30)


def test_slurm_job_has_one_token_of_its_own(tmp_path: Path) -> None:
    tokens = []
    for name in ("a", "b"):
        with job(tmp_path / name, "0") as process:
            output, _ = process.communicate(timeout=60)
        [token] = {line for line in told(tmp_path / name) if line.startswith("token")}
        secret = token.removeprefix("token token ")
        assert len(bytes.fromhex(secret)) == 32
        assert secret not in output
        tokens.append(secret)
    assert tokens[0] != tokens[1]


@pytest.mark.parametrize("signals", [1, 2])
def test_slurm_job_that_is_told_to_end_saves_once_and_goes_back_into_the_queue(signals: int, tmp_path: Path) -> None:
    with job(tmp_path) as process:
        wait_until(lambda: any(line.startswith("headrace run") for line in told(tmp_path)), "the run has begun", 60)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 3
    assert told(tmp_path).count("saved") == 1
    assert told(tmp_path)[-1] == "scontrol requeue 70123"
    wait_until(lambda: is_gone(process), "all its processes ended", 30)
