"""What metrics cost a training whose steps take a second: at most a hundredth of it, however slow MLflow is."""

from __future__ import annotations

import itertools
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cluster.gang_journal import GangJournal
from data_shards.loader import LoaderState
from monitoring.forward import import_journal
from monitoring.journal import PipeJournal, attempt_path, encode, read_records
from monitoring.send_loop import POLL_SECONDS, SendLoop
from monitoring.sender import start_sender
from monitoring.settings import MonitoringSettings
from monitoring.system_metrics import NodeMonitor, sample_record
from tests.monitoring.journals import start, step
from tests.monitoring.processes import wait_until
from tests.monitoring.stores import stored
from tests.trainer.test_config import SMALLEST, write
from trainer.callbacks import load_callbacks
from trainer.config import load_run_file
from trainer.place import Place
from trainer.rank import _emitter, _with_callbacks
from trainer.slow_rank import Pace
from trainer.training_run import Emit, TrainingRun

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(300)]

STEP_SECONDS = 1.0
MOST_SECONDS = 0.01 * STEP_SECONDS
STEPS, RANKS, EVALUATION_INTERVAL = 320, 64, 20
ANSWER_SECONDS = 5.0

# A callback of a user's that looks at every value.
HOOK = """
def watch(event):
    watch.text = str(dict(event.values))
"""


def emitter(folder: Path, journal: PipeJournal) -> Emit:
    """What rank 0 records with: the pipe to its supervisor, and a callback of the user's."""
    (folder / "hooks.py").write_text(HOOK)
    config = load_run_file(write(folder, SMALLEST), ["callbacks=['hooks:watch']"])
    assert len(load_callbacks(config)) == 1
    spec: Any = SimpleNamespace(rank=0, config=config)
    return _with_callbacks(_emitter(journal, 1), spec)


def training_run(emit: Emit) -> TrainingRun:
    """As much of rank 0's run as records a step, in fp16, which has the most to tell."""
    run: Any = TrainingRun.__new__(TrainingRun)
    optimizer = SimpleNamespace(loss_scale=65536.0)
    run.engine = SimpleNamespace(device=torch.device("cpu"), fp16_enabled=lambda: True, optimizer=optimizer)
    run.guard = SimpleNamespace(overflows=3)
    run.place, run.pace, run.nodes = Place(0, 0, LoaderState()), Pace(), [f"node-{i // 8}" for i in range(RANKS)]
    run.rank, run.rate, run.flops_per_token, run.peak_flops_per_second = 0, 1e-3, 1e9, 1e12
    run.emit, run.beat = emit, lambda step, phase: None
    run.step_began, run.data_wait_seconds = time.perf_counter(), 0.01
    return cast(TrainingRun, run)


def record(run: TrainingRun, number: int) -> None:
    """A step into the journal, as the loop does it; now and then what an evaluation tells as well."""
    batch: Any = SimpleNamespace(tokens_real=524_288, state_after=LoaderState(), sequence_hash=f"{number:032x}")
    own_seconds = [0.9 + 0.0001 * (number * rank % 7) for rank in range(RANKS)]
    result: Any = SimpleNamespace(loss=9.0 / number, grad_norm=1.5, told=(0.0, 0.0, 1.0, 0.0, *own_seconds))
    run.step_began = time.perf_counter() - STEP_SECONDS
    run.record(batch, result)
    if number % EVALUATION_INTERVAL == 0:
        facts = {"val_loss": 3.0, "unigram_loss": 7.0, "final": False, "seconds": 2.0, "samples": []}
        run.emit({"event": "eval", "step": number, "tokens": run.place.tokens, **facts})


@contextmanager
def supervisor(out_dir: Path) -> Iterator[PipeJournal]:
    """The rank's end of the pipe, and a thread that does what rank 0's supervisor does at the other."""
    gang = GangJournal(out_dir)
    pipe = gang.open_pipe(1)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            pipe.transfer()

    thread = threading.Thread(target=look)
    thread.start()
    journal = PipeJournal(os.dup(pipe.write_fd))
    try:
        yield journal
    finally:
        assert journal.close()
        ended.set()
        thread.join()
        gang.close()


def costs(work: Callable[[int], None], count: int) -> tuple[float, float]:
    """(median of the wall time, mean of this thread's processor time) of a call, in seconds."""
    wall, cpu = [], []
    for number in range(1, count + 1):
        began, cpu_began = time.perf_counter(), time.thread_time()
        work(number)
        wall.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - cpu_began)
    return statistics.median(wall), statistics.fmean(cpu)


def test_metrics_cost_of_recording_a_step_is_below_a_hundredth_of_a_second(out_dir: Path) -> None:
    """All metrics, times of 64 ranks, evaluations and a callback; the supervisor at the other end of the pipe."""
    process_began = time.process_time()
    with supervisor(out_dir) as journal:
        run = training_run(emitter(out_dir.parent, journal))
        wall, cpu = costs(lambda number: record(run, number), STEPS)
    of_process = (time.process_time() - process_began) / STEPS
    written = list(read_records(out_dir))
    assert sum("event" not in line for line in written) == STEPS
    assert len(written[0]) >= 15  # the metrics, attempt and time
    assert sum(line.get("event") == "rank_times" for line in written) == STEPS // 16
    logger.info("recording a step: wall %.2e s, processor %.2e s; with the supervisor %.2e s", wall, cpu, of_process)
    assert cpu < MOST_SECONDS
    assert wall < MOST_SECONDS
    assert of_process < MOST_SECONDS


def test_metrics_cost_of_the_processes_beside_training_is_below_a_hundredth_of_a_core(out_dir: Path) -> None:
    """The sender into SQLite at one-second steps, piece by piece as it comes, and a node's samples."""
    settings = MonitoringSettings()
    assert settings.system_metrics_seconds is not None
    monitor = NodeMonitor(out_dir)
    _, sample_cpu = costs(lambda number: void(monitor.sample()), 50)
    path = attempt_path(out_dir, 1)
    path.parent.mkdir()
    path.write_bytes(encode(start()))
    numbers, seconds, polls = itertools.count(1), [], 40
    steps_a_poll = round(POLL_SECONDS / STEP_SECONDS)

    def wait(pause_seconds: float) -> bool:
        """A pause, in which the steps come that come in it."""
        seconds.append(time.process_time())
        with path.open("ab") as file:
            file.writelines(encode(step(next(numbers))) for _ in range(steps_a_poll))
        with (path.parent / "node-here.jsonl").open("ab") as file:
            if len(seconds) % round(settings.system_metrics_seconds / POLL_SECONDS) == 0:
                file.write(encode(sample_record("here", monitor.sample(), time.time())))
        return len(seconds) > polls

    uri = f"sqlite:///{out_dir.parent}/mlflow.db"
    SendLoop(out_dir, uri, "headrace", wait).run({})
    send_cpu = (seconds[-1] - seconds[5]) / (len(seconds) - 6) / POLL_SECONDS  # the first ones import and open
    assert len([1 for key, _ in stored(out_dir.parent / "mlflow.db") if key == "loss"]) == steps_a_poll * (polls + 1)
    samples_cpu = sample_cpu / settings.system_metrics_seconds
    logger.info("the sender takes %.4f of a core, a node's samples %.5f", send_cpu, samples_cpu)
    assert send_cpu + samples_cpu < 0.01


def void(value: object) -> None:
    """Nothing with a value."""


class SlowServer(ThreadingHTTPServer):
    """Answers every request that it has no time now, five seconds late."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Late)
        self.asked = threading.Event()
        self.answered = threading.Event()
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Late(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, SlowServer)
        server.asked.set()
        server.is_over.wait(ANSWER_SECONDS)
        server.answered.set()
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@contextmanager
def slow_server() -> Iterator[SlowServer]:
    with SlowServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.is_over.set()
            server.shutdown()
            thread.join()


def test_metrics_slow_mlflow_server_costs_the_training_nothing_and_loses_nothing(out_dir: Path) -> None:
    """All steps are recorded while MLflow's first answer is still to come: nothing on their way waits for it."""
    uri = f"sqlite:///{out_dir.parent}/mlflow.db"
    with slow_server() as server, supervisor(out_dir) as journal:
        run = training_run(emitter(out_dir.parent, journal))
        run.emit(start())
        sender = start_sender(out_dir, MonitoringSettings(tracking_uri=server.url))
        try:
            wait_until(server.asked.is_set, seconds=120.0)
            wall, cpu = costs(lambda number: record(run, number), STEPS)
            was_answered = server.answered.is_set()
            assert sender.poll() is None
        finally:
            sender.kill()
            sender.wait()
    assert not was_answered
    assert max(wall, cpu) < MOST_SECONDS
    report = import_journal(out_dir, uri, "headrace", is_driven=True)
    assert report.status == "RUNNING"
    losses = sorted(number for key, number in stored(out_dir.parent / "mlflow.db") if key == "loss")
    assert losses == list(range(1, STEPS + 1))
