"""`submit`, `jobs`, `logs`, `stop`, `resume` and `status` against a job server that is made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import cluster.jobs.find
import cluster.jobs.server
from cluster.cli import main
from cluster.jobs.job import Job
from cluster.jobs.look_at_run import main as look_at_run
from cluster.jobs.order import Errand
from cluster.jobs.room import Room
from cluster.jobs.submitted import Submitted, keep_submitted
from cluster.jobs.ticket import Ticket
from monitoring.runs import create_run_folder
from tests.cluster.jobs_world import gang, job
from trainer.stop import ask_to_stop, is_stop_asked

ADDRESS = "http://head:8265"


class MadeUpServer:
    """A job server without a cluster: what a JobServer offers, on a list."""

    def __init__(self, jobs: Sequence[Job] = ()) -> None:
        self.address = ADDRESS
        self.listed = {job.id: job for job in jobs}
        self.logs: dict[str, str] = {}
        self.ended: list[str] = []
        self.environments: dict[str, Mapping[str, Any]] = {}
        self.sent: dict[str, list[str]] = {}
        self.on_wait: Callable[[str], None] = lambda job_id: None

    def jobs(self) -> list[Job]:
        return list(self.listed.values())

    def job(self, job_id: str) -> Job:
        return self.listed[job_id]

    def submit(self, ticket: Ticket, entrypoint: str, runtime_env: Mapping[str, Any]) -> None:
        assert entrypoint == "exec sh ./start.sh"
        self.listed[ticket.job_id] = Job(ticket, "PENDING", 10.0)
        self.environments[ticket.job_id] = runtime_env
        work = Path(runtime_env["working_dir"])
        self.sent[ticket.job_id] = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())

    def end(self, job_id: str) -> None:
        self.ended.append(job_id)
        self.listed[job_id] = replace(self.listed[job_id], status="STOPPED")

    def finish(self, job_id: str, exit_status: int) -> None:
        status = "FAILED" if exit_status else "SUCCEEDED"
        self.listed[job_id] = replace(self.listed[job_id], status=status, exit_status=exit_status)

    def log(self, job_id: str) -> str:
        return self.logs.get(job_id, "")

    def follow(self, job_id: str, write: Callable[[str], None]) -> None:
        write("step 1\n")
        self.on_wait(job_id)

    def wait(self, job_id: str, seconds: float | None = None) -> str | None:
        self.on_wait(job_id)
        return self.listed[job_id].status if self.listed[job_id].is_over else None

    def totals(self) -> list[dict[str, float]]:
        return [{"CPU": 2.0}, {"CPU": 2.0}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> MadeUpServer:
    made_up = MadeUpServer()
    for module in (cluster.jobs.server, cluster.jobs.find):
        monkeypatch.setattr(module, "JobServer", lambda address: made_up)
    monkeypatch.setenv("HEADRACE_OWNER", "ann")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return made_up


@pytest.fixture
def file(tmp_path: Path) -> Path:
    document = {
        "data": {"sources": ["/corpus/*.txt"], "tokenizer": {"train": "bpe", "vocab_size": 320}},
        "model": {"preset": "gpt2-tiny"},
        "train": {"max_steps": 4, "global_batch_size": 4, "lr": 0.001},
    }
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def headrace(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit status, output and error."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def kept_job(server: MadeUpServer, tmp_path: Path, **fields: Any) -> Job:
    """A job whose entry process has come so far as to keep its files in the run's folder."""
    found = job(out_dir=str(tmp_path / "runs/demo"), **fields)
    server.listed[found.id] = found
    keep_submitted(tmp_path / "runs/demo", None, Submitted(found.ticket, ADDRESS))
    return found


def test_submit_sends_the_run_file_and_lists_it_first(
    server: MadeUpServer, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = headrace(capsys, "submit", file, "--address", ADDRESS, "--set", "train.lr=0.5")
    assert status == 0
    [sent] = server.jobs()
    assert server.sent[sent.id] == ["files/headrace.run.yaml", "order.json", "start.sh"]
    assert set(server.environments[sent.id]) == {"working_dir", "py_modules"}
    assert (sent.ticket.owner, sent.ticket.name, sent.ticket.number) == ("ann", "demo", 1)
    assert sent.ticket.out_dir == str(file.parent / "runs/demo")
    assert sent.ticket.gang == gang(2)
    assert "0.5" not in json.dumps(sent.ticket.to_metadata())
    assert out.index("headrace.run.yaml") < out.index(f"submitted: {sent.id}")
    assert not (file.parent / "runs").exists()  # the cluster makes it


def test_submit_of_a_run_that_is_running_is_refused_with_its_id(
    server: MadeUpServer, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headrace(capsys, "submit", file, "--address", ADDRESS)
    [first] = server.jobs()
    status, _, error = headrace(capsys, "submit", file, "--address", ADDRESS)
    assert status == 2
    assert f"the run is pending as job {first.id} of ann" in error
    server.finish(first.id, 1)
    assert headrace(capsys, "submit", file, "--address", ADDRESS)[0] == 0
    assert [job.ticket.number for job in server.jobs()] == [1, 2]
    assert len({job.ticket.run_id for job in server.jobs()}) == 1


@pytest.mark.parametrize("exit_status", [0, 1, 2, 3])
def test_submit_followed_ends_as_the_run_does(
    server: MadeUpServer, file: Path, capsys: pytest.CaptureFixture[str], exit_status: int
) -> None:
    server.on_wait = lambda job_id: server.finish(job_id, exit_status)
    status, out, _ = headrace(capsys, "submit", file, "--address", ADDRESS, "--follow")
    assert status == exit_status
    assert out.endswith("step 1\n")


def test_submit_of_a_gang_that_could_never_fit_is_refused_unless_it_may_wait(
    server: MadeUpServer, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("submit", file, "--address", ADDRESS, "--set", "cluster.workers=5", "--set", "train.global_batch_size=10")
    status, _, error = headrace(capsys, *words)
    assert status == 2
    assert "5 workers of 1 CPU, and the cluster has 4 CPU and 0 GPU on 2 nodes" in error
    assert headrace(capsys, *words, "--wait")[0] == 0
    assert server.jobs()[0].state == "waiting"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_steps=0", "train.max_steps"),
        ("train.deepspeed={optimizer: 1}", "optimizer"),
        ("cluster.x=1", "cluster.x"),
    ],
)
def test_submit_of_wrong_input_is_refused_before_anything_is_sent(
    server: MadeUpServer, file: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    status, _, error = headrace(capsys, "submit", file, "--address", ADDRESS, "--set", override)
    assert status == 2
    assert message in error
    assert server.jobs() == []


def test_command_without_an_address_says_how_to_give_one(
    server: MadeUpServer, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, error = headrace(capsys, "submit", file)
    assert status == 2
    assert "http://HOST:8265, and none is given" in error
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ADDRESS)
    assert headrace(capsys, "submit", file)[0] == 0


def test_jobs_shows_what_a_run_in_line_waits_for(server: MadeUpServer, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = job(waits=True)
    room = Room(gang(2), 1.0, 0.0, 1, 3)
    server.listed[waiting.id], server.logs[waiting.id] = waiting, room.to_line()
    _, out, _ = headrace(capsys, "jobs", "--address", ADDRESS)
    assert "waiting for room: asked 2 workers of 1 CPU; free 1 CPU, 0 GPU; largest gang that would fit 1; 3 runs" in out
    [listed] = json.loads(headrace(capsys, "jobs", "--address", ADDRESS, "--json")[1])
    assert (listed["job_id"], listed["state"]) == (waiting.id, "waiting")
    assert (listed["waits_for"]["largest"], listed["waits_for"]["before"]) == (1, 3)


def test_status_of_a_run_in_line_before_it_has_a_run_s_folder(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = kept_job(server, tmp_path, waits=True)
    server.logs[waiting.id] = Room(gang(2), 1.0, 0.0, 1, 0).to_line()
    status, out, _ = headrace(capsys, "status", "demo", "--runs-dir", tmp_path / "runs")
    assert status == 0
    assert f"job         {waiting.id} waiting, of ann, on {ADDRESS}" in out
    assert "waits       waiting for room: asked 2 workers" in out
    values = json.loads(headrace(capsys, "status", waiting.id, "--address", ADDRESS, "--json")[1])
    assert (values["job"]["state"], values["waits_for"]["largest"]) == ("waiting", 1)


def test_status_of_a_run_whose_server_forgot_it_says_so(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forgotten = kept_job(server, tmp_path)
    server.listed.clear()
    status, out, _ = headrace(capsys, "status", tmp_path / "runs/demo")
    assert status == 0
    assert f"job         {forgotten.id}, which {ADDRESS} does not know any more" in out


def test_logs_of_the_newest_job_and_of_an_older_one(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = kept_job(server, tmp_path, status="FAILED")
    newer = kept_job(server, tmp_path, number=2, submitted=2.0)
    server.logs = {older.id: "old\n", newer.id: "new\n"}
    assert headrace(capsys, "logs", tmp_path / "runs/demo")[1] == "new\n"
    assert headrace(capsys, "logs", older.id, "--address", ADDRESS)[1] == "old\n"
    assert headrace(capsys, "logs", "demo", "-f", "--address", ADDRESS)[1] == "step 1\n"


def test_stop_leaves_the_mark_and_waits_for_the_save(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = kept_job(server, tmp_path)
    out_dir = tmp_path / "runs/demo"
    looks = []

    def on_wait(job_id: str) -> None:
        looks.append(is_stop_asked(out_dir))
        if len(looks) == 1:
            (out_dir / "stop").unlink()  # as a run that only begins to train does
        elif len(looks) == 3:
            server.finish(job_id, 3)

    server.on_wait = on_wait
    status, out, _ = headrace(capsys, "stop", running.id, "--address", ADDRESS)
    assert status == 0
    assert looks == [True, True, True]
    assert server.ended == []
    assert f"{running.id}: stopped; `headrace resume {running.id}` goes on" in out


@pytest.mark.parametrize("words", [("--now",), ()])
def test_stop_now_or_a_second_time_ends_the_job_at_once(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    running = kept_job(server, tmp_path)
    if not words:
        ask_to_stop(tmp_path / "runs/demo")
    status, out, _ = headrace(capsys, "stop", "demo", *words, "--address", ADDRESS)
    assert (status, server.ended) == (0, [running.id])
    assert "ended at once" in out


def test_stop_of_a_job_that_has_not_begun_ends_it(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mark of an earlier job must not pass for one of this job."""
    kept_job(server, tmp_path, status="FAILED")
    ask_to_stop(tmp_path / "runs/demo")
    pending = job(number=2, status="PENDING", submitted=2.0, out_dir=str(tmp_path / "runs/demo"))
    server.listed[pending.id] = pending
    monkey = pytest.MonkeyPatch()
    monkey.setattr("cluster.jobs.stopping.run_errand", lambda server, errand: "not begun\n")
    status, _, _ = headrace(capsys, "stop", "demo", "--address", ADDRESS)
    monkey.undo()
    assert (status, server.ended) == (0, [pending.id])


def test_stop_of_another_s_run_asks_for_force(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = kept_job(server, tmp_path)
    monkeypatch.setenv("HEADRACE_OWNER", "bob")
    status, _, error = headrace(capsys, "stop", "demo", "--address", ADDRESS)
    assert status == 2
    assert "the run is ann's, and you are bob" in error
    assert not is_stop_asked(tmp_path / "runs/demo") and server.ended == []
    assert headrace(capsys, "stop", "demo", "--now", "--force", "--address", ADDRESS)[0] == 0
    assert server.ended == [running.id]


def test_stop_that_is_not_answered_in_time_fails_and_says_what_to_do(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_job(server, tmp_path)
    status, out, _ = headrace(capsys, "stop", "demo", "--address", ADDRESS, "--timeout", "0.05")
    assert status == 1
    assert "headrace stop --now" in out


def test_resume_submits_the_run_again_by_the_files_in_its_folder(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former = kept_job(server, tmp_path, status="FAILED", exit_status=3)
    server.listed.clear()  # another cluster
    status, out, _ = headrace(capsys, "resume", tmp_path / "runs/demo", "--address", ADDRESS)
    assert status == 0
    [resumed] = server.jobs()
    assert resumed.ticket == replace(former.ticket, number=2)
    assert server.sent[resumed.id] == ["order.json", "start.sh"]
    assert f"submitted: {resumed.id}" in out


def test_resume_of_a_run_that_is_running_or_unknown_is_refused(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = kept_job(server, tmp_path)
    status, _, error = headrace(capsys, "resume", "demo", "--address", ADDRESS)
    assert status == 2
    assert f"running as job {running.id}" in error
    status, _, error = headrace(capsys, "resume", "other", "--address", ADDRESS)
    assert status == 2
    assert "knows of none such (known there: demo)" in error


def test_status_of_a_run_whose_folder_is_not_seen_from_here_is_the_head_s(
    server: MadeUpServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run that lies here under the same name is not taken for it."""
    create_run_folder(tmp_path / "runs/demo", "another", "demo", "")
    running = job(driver_id="01000000", out_dir="/only/there")
    server.listed[running.id] = running
    errands = []

    def run_errand(server: MadeUpServer, errand: Errand) -> str:
        errands.append(errand)
        return json.dumps({"text": "run demo, step 7", "values": {"step": 7}})

    monkeypatch.setattr("cluster.jobs.status.run_errand", run_errand)
    words = ("status", "demo", "--runs-dir", tmp_path / "runs", "--address", ADDRESS)
    status, out, _ = headrace(capsys, *words)
    assert (status, out.splitlines()[0]) == (0, "run demo, step 7")
    assert errands == [Errand("cluster.jobs.look_at_run", ("status", "/only/there"))]
    assert json.loads(headrace(capsys, *words, "--json")[1])["step"] == 7


@pytest.mark.parametrize("what", ["submit", "logs", "stop"])
def test_interrupted_wait_says_that_the_job_goes_on(
    server: MadeUpServer, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    if what != "submit":
        kept_job(server, tmp_path)

    def interrupt(job_id: str) -> None:
        raise KeyboardInterrupt

    server.on_wait = interrupt
    words = {"submit": ("submit", file, "--follow"), "logs": ("logs", "demo", "-f"), "stop": ("stop", "demo")}[what]
    status, out, _ = headrace(capsys, *words, "--address", ADDRESS)
    assert status == 1
    assert ("ends all the same" if what == "stop" else "the job goes on") in out
    assert server.ended == []


def test_look_at_run_answers_after_its_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = job(out_dir=str(tmp_path))
    assert look_at_run(["stop", str(tmp_path / "absent"), found.id]) == 0
    assert capsys.readouterr().out == "headrace answers:\nelsewhere\n"
    keep_submitted(tmp_path, None, Submitted(found.ticket, ADDRESS))
    for word in ("asked", "asked before"):
        look_at_run(["stop", str(tmp_path), found.id])
        assert capsys.readouterr().out == f"headrace answers:\n{word}\n"
    look_at_run(["status", str(tmp_path)])
    assert capsys.readouterr().out == "headrace answers:\nnull\n"
