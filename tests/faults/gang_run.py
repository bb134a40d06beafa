"""Real runs under supervisors without Ray: each supervisor a process, the ranks the trainer's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.spec import GangSpec
from data_shards.prepare import prepare
from monitoring.journal import last_values, read_records
from tests.cluster.gang_process import read_lines, start_process
from tests.end_to_end.headrace import newest_step, run_file, wait_until
from trainer.config import load_run_file
from trainer.launch import open_launch

DEADLINE_SECONDS = 120.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
}


@dataclass
class Gang:
    """A gang of two supervisors on one run's folder."""

    out_dir: Path
    supervisors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def wait_for_step(self, step: int) -> None:
        """Until the run's journal has the step."""
        wait_until(lambda: newest_step(self.out_dir) >= step, f"step {step}", DEADLINE_SECONDS)

    def wait_for_end(self) -> list[str]:
        """How each supervisor that was not killed ended, by rank."""
        for supervisor in self.supervisors:
            supervisor.wait(DEADLINE_SECONDS)
        ends = [read_lines(self.out_dir / f"end-{rank}.json") for rank in range(len(self.supervisors))]
        return [str(end[0]["status"]) for end in ends if end]


def gang_spec(folder: Path, name: str, *, entry: str = "trainer.rank", **more: Any) -> GangSpec:
    """A tiny run's spec; `limits` of the gang, `spec` for its ranks and `env` aside, the rest changes the run file."""
    limits, extra, env = more.pop("limits", {}), more.pop("spec", {}), more.pop("env", {})
    config = load_run_file(run_file(folder, name, **more))
    dataset = prepare(config.data, dir=config.data_dir, min_val_tokens=config.seq_len + 1)
    launch = open_launch(config, dataset, False)
    run_spec = {**launch.run_spec({}), "out_dir": config.out_dir, "device": "cpu", "threads": 1, **extra}
    return GangSpec(name, config.out_dir, run_spec, "secret", entry=entry, env={**ENVIRONMENT, **env}, **limits)


@contextmanager
def running(spec: GangSpec) -> Iterator[Gang]:
    """The gang of two on the run's folder, from now on; killed at the end if it still is."""
    for name in ("address", "end-0.json", "end-1.json"):
        (spec.out_path / name).unlink(missing_ok=True)
    gang = Gang(spec.out_path, [start_process(spec, rank, 2) for rank in (0, 1)])
    try:
        yield gang
    finally:
        for supervisor in gang.supervisors:
            supervisor.kill()
            supervisor.wait()


def family(pid: int) -> list[int]:
    """The process and all that it has made, its own children first."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def freeze(pids: list[int]) -> None:
    """Stop them, as a machine that hangs does."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def losses(out_dir: Path) -> Mapping[int, tuple[str, str]]:
    """(loss to the last bit, hash of the sequences) of each step, as the last attempt that ran it has them."""
    steps = last_values(read_records(out_dir))
    return {step: (record["loss_hex"], record["sequence_hash"]) for step, record in steps.items()}
