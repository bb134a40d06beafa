"""`headrace data verify | show | stats`: look into a dataset."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    from data_shards.stats import describe

    described = describe(Dataset.open(args.dir))
    if args.json:
        say_json(described)
    else:
        say(stats_text(described))
    return 0


def stats_text(described: dict[str, Any]) -> str:
    """The description of a dataset as lines for people. Pure."""
    lines = [f"{described['dir']}  ({described['vocab_size']:,} tokens in the vocabulary, {described['dtype']})"]
    for split, row in described["splits"].items():
        spread = row["tokens_per_document"] or {"min": 0, "median": 0, "max": 0}
        lines.append(
            f"{split}: {row['tokens']:,} tokens, {row['documents']:,} documents, {row['shards']:,} shards; "
            f"{row['text_bytes_per_token'] or 0:.2f} bytes of text a token; tokens a document: "
            f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:,.0f}"
        )
        lines += [
            f"  {name}: {source['tokens']:,} tokens ({source['token_share'] or 0:.1%}), {source['documents']:,} "
            f"documents, {source['shards']:,} shards"
            for name, source in row["sources"].items()
        ]
    lines.append(f"left out: {described['empty_documents']:,} empty documents")
    lines += [f"skipped: {number:,} records, {reason}" for reason, number in described["skipped_records"].items()]
    return "\n".join(lines)
