"""Submitting a run to a cluster's job server, anew or to go on."""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from cluster.errors import ClusterError
from cluster.jobs.errands import parcel_environment
from cluster.jobs.job import Job, job_in_folder
from cluster.jobs.order import ENTRYPOINT, RunOrder
from cluster.jobs.parcel import Parcel, code_files, make_parcel
from cluster.jobs.room import refuse_impossible_gang
from cluster.jobs.server import JobServer
from cluster.jobs.submitted import read_submitted
from cluster.jobs.ticket import Gang, Ticket
from cluster.run_holder import run_holder
from cluster.settings import ClusterSettings, parse_cluster, resolve_resources
from monitoring.runs import new_run_id, read_run_folder
from trainer.batch import plan_batch
from trainer.config import dump_run_file, load_run_file
from trainer.provenance import git_commit
from trainer.zero import check_passthrough

OWNER_VARIABLE = "HEADRACE_OWNER"
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """How a run is to be submitted. environment: variables of the job, by name."""

    waits: bool = False
    accept_changes: bool = False
    environment: Mapping[str, str] | None = None


def owner() -> str:
    """Who submits: HEADRACE_OWNER, or the user's name on this machine. A tag, which nobody checks."""
    return os.environ.get(OWNER_VARIABLE) or getpass.getuser()


def chosen_environment(names: Sequence[str], here: Mapping[str, str]) -> dict[str, str]:
    """The variables that travel with a job: those named, and no other.

    Raises:
        ClusterError: one is not set here, or its name says that it is a secret, which every page of Ray's would show.
    """
    for name in names:
        if _SECRET_NAME.search(name):
            raise ClusterError(
                f"--env {name}: looks like a secret, and a job's environment can be read by everyone who reaches the "
                f"cluster. Set it on the cluster's nodes before Ray is started there."
            )
        if name not in here:
            raise ClusterError(
                f"--env {name}: must be a variable that is set here, and it is not. Set it, or leave it."
            )
    return {name: here[name] for name in names}


def submit_file(
    server: JobServer, file: Path, overrides: Sequence[str], address: str, wishes: Wishes, say: Say
) -> Ticket:
    """Submit the run that a run file asks for; its ticket. `say` is told what is sent before it goes.

    Raises:
        ClusterError, TrainError, DataError, ModelError: what can be known from here to be impossible.
    """
    config = load_run_file(file, overrides)
    settings = parse_cluster(config.cluster, str(file))
    check_passthrough(config.train.deepspeed)
    for world_size in settings.worlds:
        plan_batch(config.train.global_batch_size, config.train.micro_batch_size, world_size)
    jobs = server.jobs()
    refuse_running(config.out_dir, jobs)
    totals = server.totals()
    gang = gang_of(settings, totals)
    if not wishes.waits:
        refuse_impossible_gang(gang, totals)
    run_id, number = _run_id(Path(config.out_dir), jobs)
    budget = settings.max_driver_restarts
    ticket = Ticket(run_id, number, config.name, owner(), config.out_dir, wishes.waits, gang, budget)
    project = file.resolve().parent
    parcel = make_parcel(config, project, yaml.safe_load(dump_run_file(config)))
    order = RunOrder(ticket, address, git_commit(project), wishes.accept_changes)
    _send(server, order, parcel, wishes, say)
    return ticket


def resume_run(server: JobServer, former: Ticket, address: str, wishes: Wishes, say: Say) -> Ticket:
    """Submit a run again, by the files that its last submission left in its folder; its new ticket."""
    jobs = server.jobs()
    refuse_running(former.out_dir, jobs)
    if not wishes.waits:
        refuse_impossible_gang(former.gang, server.totals())
    numbers = [job.ticket.number for job in jobs if job.ticket.run_id == former.run_id]
    number = max([former.number, *numbers]) + 1
    ticket = replace(former, number=number, owner=owner(), waits=wishes.waits)
    order = RunOrder(ticket, address, accept_changes=wishes.accept_changes, resumes=True)
    _send(server, order, Parcel(code_files(), {}, "", ()), wishes, say)
    return ticket


def refuse_running(out_dir: str, jobs: Sequence[Job]) -> None:
    """Raise ClusterError where a job or a driver on this machine runs what is to be submitted."""
    job = job_in_folder(out_dir, jobs)
    if job is not None:
        raise ClusterError(
            f"{out_dir}: the run is {job.state} as job {job.id} of {job.ticket.owner}. Follow it with `headrace logs "
            f"{job.id} -f`, stop it with `headrace stop {job.id}`, or give another out_dir."
        )
    holder = run_holder(Path(out_dir))
    if holder is not None:
        raise ClusterError(f"{out_dir}: the run is driven by {holder}. Stop that, or give another out_dir.")


def gang_of(settings: ClusterSettings, totals: Sequence[Mapping[str, float]]) -> Gang:
    """What a run asks for, with every `auto` resolved for a cluster of such nodes. Pure."""
    gpus = int(sum(node.get("GPU", 0.0) for node in totals))
    resources = resolve_resources(settings, gpus, None)
    return Gang(resources.min_workers, resources.cpus_per_worker, resources.gpus_per_worker)


def _run_id(out_dir: Path, jobs: Sequence[Job]) -> tuple[str, int]:
    """The run's id and the number of this submission: those of the run that the folder has, as far as it is known."""
    submitted = read_submitted(out_dir)
    known = [job.ticket for job in jobs if job.ticket.out_dir == str(out_dir)]
    tickets = [*known, *([submitted.ticket] if submitted is not None else [])]
    if (out_dir / "run.json").is_file():
        run_id = read_run_folder(out_dir).run_id
    else:
        run_id = max(tickets, key=lambda ticket: ticket.number).run_id if tickets else new_run_id()
    return run_id, max((ticket.number for ticket in tickets if ticket.run_id == run_id), default=0) + 1


def _send(server: JobServer, order: RunOrder, parcel: Parcel, wishes: Wishes, say: Say) -> None:
    say(f"sent to {server.address}:")
    for line in parcel.lines():
        say(line)
    with tempfile.TemporaryDirectory() as folder:
        environment = parcel_environment(Path(folder), parcel, order)
        if wishes.environment:
            environment["env_vars"] = dict(wishes.environment)
        server.submit(order.ticket, ENTRYPOINT, environment)
