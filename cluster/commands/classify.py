"""`headrace classify`: the classes of new texts, by a classifier."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.common import Subparsers, add_command, add_json, add_run, say, say_json
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from trainer.text_classifier import Text, TextClassifier

DEFAULT_FIELDS = ("text", "pair")
PREDICTED, PROBABILITIES = "predicted", "probabilities"
SHOWN_CHARACTERS = 60


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "classify",
        classify_command,
        "the classes of new texts, by a run that trained a classifier, or by one in Hugging Face layout",
        'headrace classify mails --text "Win a prize now"\n'
        "         headrace classify mails --file new.jsonl --to classes.jsonl",
    )
    add_run(parser)
    add_json(parser)
    parser.add_argument("--text", action="append", default=[], help="a text to classify; repeatable")
    parser.add_argument("--pair", action="append", default=[], help="the second text of each --text, for pairs")
    parser.add_argument(
        "--file",
        type=Path,
        help="texts: a .txt with one a line, or a .jsonl whose records have the fields that the run was trained on",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="OUT.jsonl",
        help=f"where the records of --file go, each with its class ({PREDICTED}) and {PROBABILITIES}",
    )


def classify_command(args: argparse.Namespace) -> int:
    """Print the class of each text with its probability, or write those of a file."""
    from cluster.find_model import find_model
    from trainer.text_classifier import Text, open_classifier

    _check(args)
    classifier = open_classifier(find_model(args.run, args.runs_dir))
    if args.file is not None:
        return _classify_file(classifier, args)
    pairs = args.pair or [None] * len(args.text)
    texts = [Text(text, pair) for text, pair in zip(args.text, pairs, strict=True)]
    found = list(_answers(classifier, texts))
    if args.json:
        say_json([{**_given(text), **answer} for text, answer in zip(texts, found, strict=True)])
    else:
        say("\n".join(_line(text, answer) for text, answer in zip(texts, found, strict=True)))
    return 0


def _classify_file(classifier: TextClassifier, args: argparse.Namespace) -> int:
    from cluster.record_files import read_records, text_of, write_records
    from trainer.text_classifier import Text

    # What a folder in Hugging Face layout was trained on is not written there: pairs are where there are any.
    fields = classifier.fields or DEFAULT_FIELDS
    records = read_records(args.file, *(classifier.fields or fields[:1]))
    texts = [
        Text(text_of(record, fields[0]) or "", *(text_of(record, field) for field in fields[1:])) for record in records
    ]
    answers = [{**record, **answer} for record, answer in zip(records, _answers(classifier, texts), strict=True)]
    if args.to is None:
        say_json(answers)
        return 0
    write_records(args.to, answers)
    counts = {name: sum(answer[PREDICTED] == name for answer in answers) for name in classifier.classes}
    if args.json:
        say_json({"texts": len(answers), "to": str(args.to), "by_class": counts})
    else:
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        say(f"{len(answers):,} texts classified ({told}), written to {args.to}")
    return 0


def _answers(classifier: TextClassifier, texts: Sequence[Text]) -> Iterator[dict[str, Any]]:
    """The likeliest class of each text, and the probability of each class by name."""
    for row in classifier.probabilities(texts).tolist():
        by_name = dict(zip(classifier.classes, row, strict=True))
        yield {PREDICTED: max(by_name, key=by_name.__getitem__), PROBABILITIES: by_name}


def _given(text: Text) -> dict[str, str]:
    return {name: value for name, value in text._asdict().items() if value is not None}


def _line(text: Text, answer: Mapping[str, Any]) -> str:
    shown = " | ".join(" ".join(part.split())[:SHOWN_CHARACTERS] for part in _given(text).values())
    return f"{answer[PREDICTED]}  {answer[PROBABILITIES][answer[PREDICTED]]:.3f}  {shown}"


def _check(args: argparse.Namespace) -> None:
    if bool(args.text) == (args.file is not None):
        raise ClusterError("headrace classify: give --text TEXT (once or more), or --file FILE with --to OUT.jsonl.")
    if args.to is not None and args.file is None:
        raise ClusterError("--to: is for the records of a --file; leave it out.")
    if args.file is not None and args.to is None and not args.json:
        raise ClusterError("--file: say where the classes go by --to OUT.jsonl, or give --json to have them printed.")
    if args.pair and len(args.pair) != len(args.text):
        raise ClusterError(
            f"--pair: each --text must have its own; found {len(args.pair)} for {len(args.text)} texts. Give as many."
        )
