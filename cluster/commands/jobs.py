"""`headrace submit | jobs | logs | stop | resume`: runs on a cluster that others use too."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, add_run, add_server, say, say_json, say_piece

if TYPE_CHECKING:
    from cluster.jobs.job import Job
    from cluster.jobs.server import JobServer

STOP_WAIT_SECONDS = 1800.0
FAILED_STATUS = 1


def register(commands: Subparsers) -> None:
    """Add the commands."""
    _register_submit(commands)
    example = "headrace jobs --address http://head:8265"
    jobs = add_command(commands, "jobs", jobs_command, "submitted runs on a cluster, and what they wait for", example)
    add_json(jobs)
    logs = add_command(
        commands, "logs", logs_command, "what a submitted run printed", "headrace logs demo -f --address URL"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    stop = add_command(
        commands, "stop", stop_command, "have a submitted run save and end", "headrace stop demo --address URL"
    )
    stop.add_argument("--now", action="store_true", help="end it at once, without a save; so does a second stop")
    stop.add_argument("--force", action="store_true", help="though it is another owner's")
    stop.add_argument(
        "--timeout", type=float, default=STOP_WAIT_SECONDS, metavar="SECONDS", help="longest wait; default: 1800"
    )
    resume = add_command(
        commands,
        "resume",
        resume_command,
        "go on with a submitted run, from its newest good checkpoint",
        "headrace resume demo --address URL",
    )
    _add_ways(resume)
    for parser in (logs, stop, resume):
        add_run(parser)
    for parser in (jobs, logs, stop, resume):
        add_server(parser)


def _register_submit(commands: Subparsers) -> None:
    example = "headrace submit recipes/demo.yaml --address http://head:8265 --follow"
    submit = add_command(commands, "submit", submit_command, "send a run to a Ray cluster's job server", example)
    submit.add_argument("file", type=Path, metavar="FILE.yaml", help="the run file")
    submit.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a field of the run file; repeatable"
    )
    submit.add_argument(
        "--accept-changes", action="store_true", help="resume with a changed length, learning rate or batch"
    )
    _add_ways(submit)
    add_server(submit)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="show the log to the end, and end as the run does")
    parser.add_argument("--wait", action="store_true", help="wait in line until the cluster has room for the workers")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="a variable that travels with the job; repeatable"
    )


def submit_command(args: argparse.Namespace) -> int:
    """Send the run; with --follow its exit status."""
    from cluster.jobs.find import server_address
    from cluster.jobs.server import JobServer
    from cluster.jobs.submission import Wishes, chosen_environment, submit_file

    address = server_address(args.address, None)
    server = JobServer(address)
    wishes = Wishes(args.wait, args.accept_changes, chosen_environment(args.env, os.environ))
    ticket = submit_file(server, args.file, args.set, address, wishes, say)
    return _after_submission(args, server, ticket.job_id)


def resume_command(args: argparse.Namespace) -> int:
    """Submit the run once more."""
    from cluster.jobs.find import find_submitted
    from cluster.jobs.submission import Wishes, chosen_environment, resume_run

    found = find_submitted(args.run, args.runs_dir, args.address)
    wishes = Wishes(args.wait, environment=chosen_environment(args.env, os.environ))
    ticket = resume_run(found.server, found.ticket, found.address, wishes, say)
    return _after_submission(args, found.server, ticket.job_id)


def _after_submission(args: argparse.Namespace, server: JobServer, job_id: str) -> int:
    say(f"submitted: {job_id}")
    if args.follow:
        return server.job(job_id).exit_code if _follow(server, job_id) else FAILED_STATUS
    say(f"next: headrace logs {job_id} -f --address {server.address}")
    return 0


def jobs_command(args: argparse.Namespace) -> int:
    """A table of all runs that the server knows of."""
    from cluster.jobs.find import server_address
    from cluster.jobs.job import jobs_table
    from cluster.jobs.room import room_from_log
    from cluster.jobs.server import JobServer

    server = JobServer(server_address(args.address, None))
    jobs = server.jobs()
    rooms = {job.id: room_from_log(server.log(job.id)) for job in jobs if job.is_waiting}
    if args.json:
        waiting = {job_id: room.to_dict() for job_id, room in rooms.items() if room is not None}
        say_json([{**job.to_dict(), "waits_for": waiting.get(job.id)} for job in jobs])
    elif not jobs:
        say(f"no submitted runs on {server.address}")
    else:
        say(jobs_table(jobs, {job_id: room.to_line() for job_id, room in rooms.items() if room is not None}))
    return 0


def logs_command(args: argparse.Namespace) -> int:
    """Print the log of the run's newest job."""
    from cluster.jobs.find import find_known_job

    server, job = find_known_job(args.run, args.runs_dir, args.address)
    if args.follow:
        return 0 if _follow(server, job.id) else FAILED_STATUS
    say_piece(server.log(job.id))
    return 0


def _follow(server: JobServer, job_id: str) -> bool:
    """Show a job's log to its end; False if that was interrupted, by which the job is not."""
    try:
        server.follow(job_id, say_piece)
    except KeyboardInterrupt:
        say(f"\nthe job goes on: headrace logs {job_id} -f, headrace stop {job_id}")
        return False
    return True


def stop_command(args: argparse.Namespace) -> int:
    """Exit status 0 once the job is over; 1 where it is not within the time."""
    from cluster.jobs.find import find_known_job
    from cluster.jobs.job import refuse_another_owner
    from cluster.jobs.stopping import ASKED_BEFORE, NOT_BEGUN, ask, wait_for_end
    from cluster.jobs.submission import owner

    server, job = find_known_job(args.run, args.runs_dir, args.address)
    if job.is_over:
        say(f"{job.id} is over: {job.state}")
        return 0
    refuse_another_owner(job, owner(), args.force)
    word = "now" if args.now else ask(server, job)
    if word in ("now", ASKED_BEFORE, NOT_BEGUN):
        server.end(job.id)
        server.wait(job.id, args.timeout)
        say(f"{job.id}: ended at once")
        return 0
    say(f"{job.id}: saves at the next step border and ends; once more ends it at once")
    try:
        return _say_end(wait_for_end(server, job, args.timeout), args.timeout)
    except KeyboardInterrupt:
        say(f"{job.id}: saves and ends all the same; a second `headrace stop` ends it at once")
        return FAILED_STATUS


def _say_end(job: Job, seconds: float) -> int:
    if not job.is_over:
        say(f"{job.id}: has not ended within {seconds:.0f} s; `headrace stop --now` ends it without a save")
        return 1
    say(f"{job.id}: {job.state}; `headrace resume {job.id}` goes on")
    return 0
