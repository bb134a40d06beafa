"""`headrace data verify | show | stats`: look into a dataset."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from cluster.commands.common import Subparsers, add_command, add_json, say, say_json
from data_shards.dataset import Dataset


def register(commands: Subparsers) -> None:
    """Add the three commands."""
    data = commands.add_parser("data", help="audit, read and describe a dataset").add_subparsers(
        title="commands", required=True
    )
    verify = add_command(data, "verify", verify_command, "check every byte of a dataset", "headrace data verify DIR")
    show = add_command(data, "show", show_command, "read a document as text", "headrace data show DIR 3")
    stats = add_command(data, "stats", stats_command, "describe a dataset", "headrace data stats DIR")
    for parser in (verify, show, stats):
        parser.add_argument("dir", type=Path, metavar="DIR", help="the dataset's folder")
    add_json(verify)
    add_json(stats)
    show.add_argument("number", type=int, nargs="?", default=0, metavar="N", help="which document, from 0")
    show.add_argument("--split", choices=("train", "val"), default="train")


def verify_command(args: argparse.Namespace) -> int:
    """Exit status 1 where something is wrong."""
    from data_shards.verify import verify

    report = verify(args.dir)
    if args.json:
        say_json(asdict(report))
    else:
        for problem in report.problems:
            say(f"{problem.path}: {problem.what}")
        say(f"{len(report.problems)} problems in {args.dir}" if report.problems else f"{args.dir}: every byte is good")
    return 1 if report.problems else 0


def show_command(args: argparse.Namespace) -> int:
    """Print one document."""
    from data_shards.show import show

    say(show(Dataset.open(args.dir), args.number, args.split))
    return 0


def stats_command(args: argparse.Namespace) -> int:
    """Print what the dataset holds."""
    from data_shards.stats import describe, to_table

    described = describe(Dataset.open(args.dir))
    if args.json:
        say_json(described)
    else:
        say(to_table(described))
    return 0
