"""`headrace doctor`: is this machine or cluster fit for it."""

from __future__ import annotations

import argparse
import dataclasses
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, say, say_json

if TYPE_CHECKING:
    from cluster.doctor import ClusterFacts, Finding

UNFIT_STATUS = 1
_MARKS = {"ok": "ok", "warning": "warning", "bad": "BAD"}


def register(commands: Subparsers) -> None:
    """Add the command."""
    doctor = add_command(
        commands,
        "doctor",
        doctor_command,
        "is this machine or cluster fit for Headrace: versions, folders, disk, network, clocks, speed",
        "headrace doctor recipes/demo.yaml --address 10.0.0.1:6379",
    )
    doctor.add_argument("file", type=Path, nargs="?", metavar="FILE.yaml", help="a run file, whose folders are checked")
    doctor.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a field of the run file")
    doctor.add_argument("--address", help="a Ray cluster's address, HOST:PORT; default: this machine alone")
    add_json(doctor)


def doctor_command(args: argparse.Namespace) -> int:
    """Look, judge and tell; 1 if something must be mended first."""
    from cluster.doctor import judge

    facts = _look(args)
    findings = judge(facts)
    if args.json:
        nodes = [dataclasses.asdict(node) for node in facts.nodes]
        links = [dataclasses.asdict(link) for link in facts.links]
        told = [dataclasses.asdict(finding) for finding in findings]
        say_json({"findings": told, "nodes": nodes, "links": links})
    else:
        say("\n".join(map(_line, findings)))
        say(_verdict(findings))
    return UNFIT_STATUS if any(finding.level == "bad" for finding in findings) else 0


def _look(args: argparse.Namespace) -> ClusterFacts:
    from cluster.doctor import ClusterFacts
    from cluster.doctor_visit import visit
    from cluster.node_facts import find_facts
    from cluster.ray_session import check_address, ray_session
    from monitoring.reach import reach_problem
    from trainer.config import load_run_file

    config = load_run_file(args.file, args.set) if args.file is not None else None
    folders = [] if config is None else [each for each in (config.out_dir, config.data_dir) if "://" not in str(each)]
    if args.address is None:
        with tempfile.TemporaryDirectory() as spare:
            disk = _existing(Path(folders[0])) if folders else Path(spare)
            facts = ClusterFacts([find_facts(socket.gethostname(), str(disk))])
    else:
        check_address(args.address)
        disk_folder = str(folders[0]) if folders else tempfile.gettempdir()
        with ray_session(args.address, local_cpus=1):
            facts = visit(args.address, [Path(folder) for folder in folders], disk_folder)
    uri = config.monitoring.tracking_uri if config is not None else None
    return facts if uri is None else dataclasses.replace(facts, mlflow=(uri, reach_problem(uri)))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _line(finding: Finding) -> str:
    told = f"{_MARKS[finding.level]:8} {finding.check}: {finding.found}"
    return told + (f"\n{'':8} -> {finding.advice}" if finding.advice else "")


def _verdict(findings: list[Finding]) -> str:
    bad = sum(finding.level == "bad" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    return f"{bad} to mend, {warnings} warnings" if bad or warnings else "fit"
