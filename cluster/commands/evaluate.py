"""`headrace evaluate`: how good a run's model is on held-out documents, and at multiple choice."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.common import Subparsers, add_command, add_json, add_run, say, say_json

if TYPE_CHECKING:  # the command's help needs no torch
    from trainer.trained import Trained

DEFAULT_MAX_TOKENS = 1 << 20


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "evaluate",
        evaluate_command,
        "loss on the held-out documents by source and position, or accuracy at multiple choice",
        "headrace evaluate demo",
    )
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, help="held-out tokens of each source; default: 2**20"
    )
    parser.add_argument(
        "--choices",
        type=Path,
        metavar="FILE.jsonl",
        help='multiple choice instead: a line is {"prompt": TEXT, "choices": [TEXT, ...], "answer": INDEX}',
    )
    parser.add_argument("--delimiter", default=" ", help="between prompt and choice; default: a space")


def evaluate_command(args: argparse.Namespace) -> int:
    """Print the scores."""
    if args.choices is not None:
        return _choices(args)
    from cluster.errors import ClusterError
    from cluster.find_model import find_model
    from trainer.held_out import held_out_scores
    from trainer.language_model import open_at_step

    place = find_model(args.run, args.runs_dir)
    if not place.is_run:
        raise ClusterError(
            f"RUN {args.run}: a folder in Hugging Face layout has no held-out documents; give a run, or --choices FILE."
        )
    trained = open_at_step(place)
    if trained.dataset.classes:
        return _classes(trained, args)
    scores = {"step": trained.step, **held_out_scores(trained, args.max_tokens)}
    if args.json:
        say_json(scores)
    else:
        say(held_out_text(scores))
    return 0


def _classes(trained: Trained, args: argparse.Namespace) -> int:
    from trainer.classification_report import classification_report, report_text

    report = {"step": trained.step, **classification_report(trained, args.max_tokens)}
    if args.json:
        say_json(report)
    else:
        say(f"step {trained.step}: {report_text(report)}")
    return 0


def _choices(args: argparse.Namespace) -> int:
    from cluster.find_model import find_model
    from trainer.language_model import open_language_model
    from trainer.multiple_choice import read_questions, score_questions

    questions = read_questions(args.choices)
    scores = score_questions(open_language_model(find_model(args.run, args.runs_dir)), questions, args.delimiter)
    if args.json:
        say_json(scores)
    else:
        say(
            f"{scores['questions']:,} questions: accuracy {scores['acc']:.4f} by log-likelihood, "
            f"{scores['acc_norm']:.4f} by log-likelihood per byte"
        )
    return 0


def held_out_text(scores: dict[str, Any]) -> str:
    """The scores as lines for people."""
    lines = [
        f"step {scores['step']}: loss {scores['loss']:.4f} nats per token, perplexity {scores['perplexity']:.1f}, "
        f"{_bits(scores)}; unigram model {scores['unigram_loss']:.4f}; {scores['tokens']:,} held-out tokens"
    ]
    for source, own in scores["sources"].items():
        if own["tokens"]:
            found = f"loss {own['loss']:.4f}, perplexity {own['perplexity']:.1f}, {_bits(own)}"
            lines.append(f"  source {source}: {found}; {own['tokens']:,} tokens")
        else:
            lines.append(f"  source {source}: less than one sequence held out")
    for bucket in scores["positions"]:
        lines.append(f"  after {bucket['first']:,} to {bucket['last']:,} tokens: loss {bucket['loss']:.4f}")
    return "\n".join(lines)


def _bits(own: dict[str, Any]) -> str:
    bits = own["bits_per_byte"]
    return "no text" if bits is None else f"{bits:.4f} bits per byte"
