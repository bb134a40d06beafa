"""`headrace generate`: text from a model, to the terminal or to a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, add_run, say, say_json, say_piece
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from trainer.language_model import TextRequest

DEFAULT_TOKENS, DEFAULT_TEMPERATURE, DEFAULT_TOP_K = 64, 0.8, 50


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "generate",
        generate_command,
        "continue prompts with a run's model, or one in Hugging Face layout",
        'headrace generate demo --prompt "To be"\n         headrace generate demo --file prompts.txt --to texts.jsonl\n'
        '         headrace generate helper --chat --prompt "How do I reset my password?"',
    )
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="a text to go on with; repeatable: all go on together, the first is shown as it comes",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="a prompt is what a user says, written by the chat template that the model was trained with; its answer "
        "ends where the template ends the assistant's turn",
    )
    parser.add_argument("--file", type=Path, help="prompts: a .txt with one a line, or a .jsonl with a field prompt")
    parser.add_argument("--to", type=Path, metavar="OUT.jsonl", help="where the texts of --file go, in their order")
    parser.add_argument("--address", help="with --file: a Ray cluster's address; default: a local Ray")
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-tokens", "--tokens", type=int, default=DEFAULT_TOKENS, help="how many tokens to add at most"
    )
    parser.add_argument(
        "--temperature", type=float, default=DEFAULT_TEMPERATURE, help="0 takes the likeliest token; default: 0.8"
    )
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, help="of so many likeliest tokens; 0: all")
    parser.add_argument("--top-p", type=float, help="of the fewest likeliest tokens with so much probability")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="against tokens that were there; 1: none")
    parser.add_argument("--stop", action="append", default=[], help="end a text before this string; repeatable")
    parser.add_argument("--seed", type=int, default=0)


def generate_command(args: argparse.Namespace) -> int:
    """Print each prompt and its continuation as it comes, or write those of a file."""
    from cluster.find_model import find_model
    from trainer.language_model import open_language_model

    _check(args)
    request, place = _request(args), find_model(args.run, args.runs_dir)
    if args.file is not None:
        from cluster.generate_file import generate_file

        count = generate_file(place, request, args.file, args.to, args.address)
        say(f"{count:,} texts written to {args.to}")
        return 0
    language_model = open_language_model(place)
    if args.json:
        texts = language_model.texts(args.prompt, request)
        say_json([{"prompt": prompt, "text": text} for prompt, text in zip(args.prompt, texts, strict=True)])
        return 0
    shown = [f"{prompt}\n" for prompt in args.prompt] if args.chat else args.prompt
    for piece in in_order(shown, language_model.stream(args.prompt, request)):
        say_piece(piece)
    return 0


def in_order(prompts: Sequence[str], pieces: Iterable[tuple[int, str]]) -> Iterator[str]:
    """What to print: prompts and their texts one after the other, a line's end after each.

    `pieces` are (number of the prompt, next piece). All go on in one batch, which takes little longer than one alone.
    Those of the first prompt pass at once; the others' wait until all is there, since a terminal has one place where
    text grows, and only then is it known that the first has no more.
    """
    waiting: list[list[str]] = [[] for _ in prompts]
    yield prompts[0]
    for row, piece in pieces:
        if row == 0:
            yield piece
        else:
            waiting[row].append(piece)
    yield "\n"
    for prompt, texts in zip(prompts[1:], waiting[1:], strict=True):
        yield "".join([prompt, *texts, "\n"])


def _check(args: argparse.Namespace) -> None:
    if bool(args.prompt) == (args.file is not None):
        raise ClusterError("headrace generate: give --prompt TEXT (once or more), or --file FILE --to OUT.jsonl.")
    if (args.file is None) != (args.to is None):
        raise ClusterError("headrace generate: --file and --to belong together; give both or none.")
    if args.address is not None and args.file is None:
        raise ClusterError("--address: only the prompts of a --file go to a Ray cluster; leave it out.")


def _request(args: argparse.Namespace) -> TextRequest:
    from model.sampling import Sampling
    from trainer.language_model import TextRequest

    sampling = Sampling(
        temperature=args.temperature,
        top_k=None if args.top_k == 0 else args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
    )
    return TextRequest(args.max_tokens, sampling, tuple(args.stop), args.seed, args.chat)
