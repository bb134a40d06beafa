"""Having the cluster's head look at a run's folder, where this machine does not see it."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.order import ENTRYPOINT, Errand, RunOrder, write_order
from cluster.jobs.parcel import Parcel, code_files
from cluster.jobs.server import JobServer

ERRAND_SECONDS = 120.0
ANSWER_SIGN = "headrace answers:"
"""Before the answer, in the log of the errand's job."""


def parcel_environment(folder: Path, parcel: Parcel, order: RunOrder | Errand) -> dict[str, object]:
    """Ray's runtime environment of a job that carries a parcel; folder: an empty one that lives until it is sent."""
    write_order(folder / "work", order)
    packages = parcel.write(folder / "code", folder / "work/files")
    return {"working_dir": str(folder / "work"), "py_modules": [str(package) for package in packages]}


def run_errand(server: JobServer, errand: Errand) -> str:
    """Run one of our modules on the head; what it printed after the sign. A start takes some ten seconds.

    Raises:
        ClusterError: it failed; with its words.
    """
    job_id = f"headrace-errand-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder:
        environment = parcel_environment(Path(folder), Parcel(code_files(), {}, "", ()), errand)
        server.submit_plain(job_id, ENTRYPOINT, environment, {})
    status = server.wait(job_id, ERRAND_SECONDS)
    if status is None:
        server.end(job_id)
        raise ClusterError(f"{server.address}: the head did not answer within {ERRAND_SECONDS:.0f} s. Try again.")
    before, sign, answer = server.log(job_id).partition(f"{ANSWER_SIGN}\n")
    server.forget(job_id)
    if status != "SUCCEEDED" or not sign:
        raise ClusterError(f"the head of {server.address} could not answer: {(answer or before).strip()[-500:]}")
    return answer
