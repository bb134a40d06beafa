"""The one entry of a training process: for ranks forked by a gang, for `python -m trainer` and for torchrun."""

from __future__ import annotations

import importlib
import logging
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import trainer.lean_deepspeed  # noqa: F401  before all that imports DeepSpeed
from data_shards.errors import DataError
from model.errors import ModelError
from monitoring.journal import FileJournal, PipeJournal
from monitoring.progress import ProgressView
from trainer.build import RankSpec, build_run
from trainer.callbacks import CallbackCaller, load_callbacks
from trainer.config import RunConfig
from trainer.errors import FencedError, SaveFailedError, TrainError
from trainer.faults import FaultPoints, parse_faults
from trainer.loop import Status, train
from trainer.micro_batch import stepping_down
from trainer.optimizer_step import Beat
from trainer.process_group import init_process_group
from trainer.profiling import profile_run
from trainer.seeds import make_deterministic
from trainer.stop import is_to_make_way
from trainer.training_run import Emit, TrainingRun

logger = logging.getLogger(__name__)

FAILED_STATUS = 1
USER_ERROR_STATUS = 2

Journal = FileJournal | PipeJournal

# What torch and DeepSpeed import on first use. A fork of a process that has them starts training in a tenth of the
# time; tests/trainer/test_rank.py holds the list current.
PRELOADED = (
    "torch._dynamo",
    "deepspeed.runtime.zero.stage_1_and_2",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.moe.layer",
    "deepspeed.checkpoint",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "pyarrow.dataset",
    "safetensors.torch",
    "torch.profiler",
    "torch.utils.cpp_extension",
)


def preload() -> None:
    """Import everything that training needs, and initialise nothing: no thread, no device, no tensor operation."""
    for name in PRELOADED:
        importlib.import_module(name)


def no_beat(step: int, phase: str) -> None:
    """The beat of a rank that nobody watches."""


def _open_journal(spec: Mapping[str, Any]) -> Journal | None:
    """Rank 0's journal: its supervisor's pipe, or the file itself where there is no supervisor; None elsewhere."""
    if spec.get("journal_fd") is not None:
        return PipeJournal(spec["journal_fd"])
    if spec["rank"] == 0 and "journal_path" in spec:
        return FileJournal(Path(spec["journal_path"]))
    return None


def _emitter(journal: Journal | None, attempt: int) -> Emit:
    """Stamps records with attempt and time and writes them to the journal, where this rank has one."""
    if journal is None:
        return lambda record: None
    tell = _Teller() if isinstance(journal, FileJournal) else None

    def emit(record: Mapping[str, Any]) -> None:
        stamped = {**record, "attempt": attempt, "time": time.time()}
        journal.write(stamped)
        if tell is not None:
            tell(stamped)

    return emit


class _Teller:
    """Shows the journal on the screen where no driver does."""

    def __init__(self) -> None:
        self._view: ProgressView | None = None

    def __call__(self, record: dict[str, Any]) -> None:
        if record.get("event") == "start":
            self._view = ProgressView(record["max_tokens"])
        if self._view is not None:
            self._view.feed([record])
            if record.get("event") == "end":
                self._view.close()


def _device(spec: Mapping[str, Any]) -> torch.device:
    """The device that the spec asks for, or a GPU where there is one; a worker that sees one GPU takes it."""
    kind = spec.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    index = spec["local_rank"] % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextmanager
def _told_where(run: TrainingRun) -> Iterator[None]:
    """Exceptions of the block go on with a note of the step and its sequences."""
    with ExitStack() as stack:
        stack.push(lambda cls, error, traceback: error.add_note(run.where()) if error is not None else None)
        yield


def _fault_points(spec: Mapping[str, Any]) -> FaultPoints | None:
    """The faults that this rank is to do to itself; None where the run has none."""
    faults = parse_faults(spec.get("faults", []), "faults")
    if not faults:
        return None
    return FaultPoints(faults, Path(spec["config"]["out_dir"]), spec["rank"], spec["attempt"])


def _rank_spec(spec: Mapping[str, Any]) -> RankSpec:
    names = ("run_id", "dataset_fingerprint", "tags", "rank", "world_size", "attempt")
    config = RunConfig.model_validate(spec["config"])
    memory = {"snapshot_fd": spec.get("snapshot_fd"), "former_fds": spec.get("former_fds", [])}
    memory["local_world_size"] = spec.get("local_world_size", 1)
    node = spec.get("node") or socket.gethostname()
    return RankSpec(config=config, node=node, **memory, **{name: spec[name] for name in names})


def _with_callbacks(emit: Emit, spec: RankSpec) -> Emit:
    """On rank 0, which alone has records, tells the run's callbacks of each once the journal has it."""
    if spec.rank > 0 or not spec.config.callbacks:
        return emit
    tell = CallbackCaller(spec.config, load_callbacks(spec.config))

    def emit_and_tell(record: Mapping[str, Any]) -> None:
        emit(record)
        tell(record)

    return emit_and_tell


def main(spec: Mapping[str, Any]) -> int:
    """Train as one rank; the exit status is 0 finished, 3 stopped with a checkpoint, 2 wrong input, 1 fenced off or
    without its last checkpoint (both on stderr, as is the reason).

    Args:
        spec: config, run_id, dataset_fingerprint, tags, rank, world_size, local_rank, attempt; perhaps device,
            threads, faults and profile_steps (these are run instead of training); from a supervisor store_host,
            store_port, heartbeat, snapshot_fd, former_fds, perhaps node, and on rank 0 store_fd and journal_fd; from a
            launcher store (an object) and journal_path.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    beat: Beat = spec["heartbeat"].beat if "heartbeat" in spec else no_beat
    faults = _fault_points(spec)
    if faults is not None:
        beat = faults.after(beat)
    beat(0, "init")
    journal = _open_journal(spec)
    emit = _emitter(journal, spec["attempt"])
    try:
        device = _device(spec)
        if "threads" in spec:
            torch.set_num_threads(spec["threads"])
        rank_spec = _rank_spec(spec)
        emit = _with_callbacks(emit, rank_spec)
        make_deterministic(rank_spec.config.train.deterministic, device)
        init_process_group(spec, device)
        run = build_run(rank_spec, device, emit, beat, faults)
        with _told_where(run), stepping_down(run.config, run.plan, device):
            steps = spec.get("profile_steps")
            status = train(run) if steps is None else profile_run(run, steps)
        # A gang that makes way for another is not the end of the run.
        if status is Status.FINISHED or not is_to_make_way(Path(rank_spec.config.out_dir)):
            emit({"event": "end", "status": status.name.lower(), "step": run.place.step, "tokens": run.place.tokens})
        dist.barrier()
        dist.destroy_process_group()
        return int(status)
    except (TrainError, DataError, ModelError) as error:
        print(error, file=sys.stderr)  # noqa: T201  the supervisor passes it on to the user
        return USER_ERROR_STATUS
    except (FencedError, SaveFailedError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return FAILED_STATUS
    finally:
        if journal is not None:
            journal.close()
