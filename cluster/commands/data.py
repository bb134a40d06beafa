"""`headrace data verify | show | stats | plan`: look into a dataset."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, say, say_json
from cluster.errors import ClusterError
from data_shards.dataset import Dataset
from data_shards.settings import is_remote

if TYPE_CHECKING:
    from cluster.left_out import LeftOut
    from data_shards.show import Shown
    from trainer.config import RunConfig

logger = logging.getLogger(__name__)


def register(commands: Subparsers) -> None:
    """Add the four commands."""
    data = commands.add_parser("data", help="audit, read and describe a dataset").add_subparsers(
        title="commands", required=True
    )
    verify = add_command(data, "verify", verify_command, "check every byte of a dataset", "headrace data verify DIR")
    show = add_command(
        data,
        "show",
        show_command,
        "read a document, or a sequence as the model sees it",
        "headrace data show DIR 3 --sequence --file run.yaml",
    )
    stats = add_command(
        data, "stats", stats_command, "describe a dataset", "headrace data stats DIR --html stats.html --file run.yaml"
    )
    plan = add_command(
        data, "plan", plan_command, "how a dataset falls to ranks", "headrace data plan DIR --world 8 --lose 1"
    )
    for parser in (verify, show, stats, plan):
        parser.add_argument(
            "dir", type=dataset_dir, metavar="DIR", help="the dataset's folder, or an address (s3://...)"
        )
        add_json(parser)
    _add_show_options(show)
    _add_order_options(plan)
    for parser in (stats, plan):
        parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots instead")
    stats.add_argument("--file", type=Path, metavar="RUN.yaml", help="show shares and passes of this run's sources")
    plan.add_argument("--world", type=int, required=True, metavar="N", help="number of ranks")
    plan.add_argument("--lose", type=int, metavar="K", help="ranks lost half-way; default: 1")


def _add_show_options(show: argparse.ArgumentParser) -> None:
    show.add_argument(
        "number", type=int, nargs="?", default=0, metavar="N", help="which document or sequence of the order, from 0"
    )
    show.add_argument("--split", choices=("train", "val"), default="train")
    show.add_argument("--sequence", action="store_true", help="a training sequence instead of a document")
    show.add_argument(
        "--excluded",
        action="store_true",
        help="DIR is a run: all sequences that its bad numbers came from (train.on_bad_numbers)",
    )
    show.add_argument("--epoch", type=int, default=0, help="count the sequences from the start of this epoch, from 0")
    show.add_argument("--ids", action="store_true", help="show the tokens' numbers too")
    show.add_argument(
        "--packing",
        choices=("stream", "documents", "sentence_pairs"),
        help="what labels are left out of training at documents' borders; default: the run file's, or stream",
    )
    _add_order_options(show)


def _add_order_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, metavar="RUN.yaml", help="take order and sequence length from this run")
    parser.add_argument("--seq-len", type=int, metavar="T", help="default: the run file's, or 1024")
    parser.add_argument("--seed", type=int, help="default: the run file's, or 1337")


def dataset_dir(text: str) -> Path | str:
    """A folder's path, or an address as it is."""
    return text if is_remote(text) else Path(text)


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
    """Print one document or sequence, or those that a run left out."""
    from cluster.data_text import shown_text
    from cluster.visible import visible

    if args.excluded:
        left_out = _left_out(args)
        answer: object = [asdict(one) for one in left_out]
        heads = [f"step {one.step}, bad {one.what}, {one.action}: " for one in left_out]
        texts = [head + shown_text(one.sequence, with_ids=args.ids) for head, one in zip(heads, left_out, strict=True)]
    else:
        shown = _shown(args)
        answer, texts = asdict(shown), [shown_text(shown, with_ids=args.ids)]
    if args.json:
        say_json(answer)
        return 0
    for text in texts or ["no numbers of this run were bad"]:
        say(visible(text) if sys.stdout.isatty() else text)
    return 0


def stats_command(args: argparse.Namespace) -> int:
    """Print what the dataset holds, or write a page."""
    from cluster.data_facts import describe_all
    from cluster.data_page import stats_page
    from cluster.data_text import stats_text
    from cluster.visible import visible

    described = describe_all(Dataset.open(args.dir), _run_file(args), args.file)
    if args.html:
        _write_page(args.html, stats_page(described))
    if args.json:
        say_json(described)
    elif not args.html:
        say(visible(stats_text(described)))
    return 0


def plan_command(args: argparse.Namespace) -> int:
    """Print how an epoch falls to ranks, or write a page."""
    from cluster.data_facts import balance_facts, order_facts
    from cluster.data_page import plan_page
    from cluster.data_text import plan_text
    from data_shards.balance import balance

    dataset = Dataset.open(args.dir)
    order, facts = order_facts(dataset, _run_file(args), args.seq_len, args.seed)
    tokens = [shard.tokens for shard in dataset.split("train")]
    lost = min(1, args.world - 1) if args.lose is None else args.lose
    found = balance(order, tokens, args.world, lost)
    if args.html:
        _write_page(args.html, plan_page(found, facts))
    if args.json:
        say_json({**facts, **balance_facts(found)})
    elif not args.html:
        say(plan_text(found, facts))
    return 0


def _left_out(args: argparse.Namespace) -> list[LeftOut]:
    from cluster.find import find_run_folder
    from cluster.left_out import left_out_sequences

    return left_out_sequences(find_run_folder(str(args.dir), None))


def _shown(args: argparse.Namespace) -> Shown:
    from cluster.data_facts import order_facts, sequence_length
    from data_shards.show import show_document, show_held_out_sequence, show_sequence

    dataset, config = Dataset.open(args.dir), _run_file(args)
    if not args.sequence:
        return show_document(dataset, args.number, args.split)
    packing = args.packing or (config.data.packing if config else "stream")
    if args.split == "val":
        return show_held_out_sequence(dataset, args.number, sequence_length(dataset, config, args.seq_len), packing)
    order, _ = order_facts(dataset, config, args.seq_len, args.seed)
    return show_sequence(dataset, order, args.epoch * order.sequences_per_epoch + args.number, packing)


def _run_file(args: argparse.Namespace) -> RunConfig | None:
    if args.file is None:
        return None
    from trainer.config import load_run_file

    return load_run_file(args.file)


def _write_page(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ClusterError(
            f"--html: {path} cannot be written ({error.strerror}): give a file in a folder that is there"
        ) from error
    logger.info("written to %s", path)
