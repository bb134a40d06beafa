"""`headrace compare | dashboard | generate | evaluate | export`: what comes of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.common import Subparsers, add_command, add_json, add_run, say, say_json
from cluster.find import RUNS_DIRS, find_run_folder
from cluster.run_holder import run_holder


def register(commands: Subparsers) -> None:
    """Add the five commands."""
    compare = add_command(
        commands, "compare", compare_command, "a table of runs side by side", "headrace compare demo wide"
    )
    add_run(compare, many=True)
    add_json(compare)
    dashboard = add_command(
        commands, "dashboard", dashboard_command, "the MLflow dashboard on the right store", "headrace dashboard"
    )
    dashboard.add_argument("--runs-dir", type=Path, help="folder of runs; default: runs, or recipes/runs")
    dashboard.add_argument("--tracking-uri", help="another store; default: mlflow.db in the folder of runs")
    dashboard.add_argument("--port", type=int, default=5000)
    _register_model_commands(commands)


def _register_model_commands(commands: Subparsers) -> None:
    generate = add_command(
        commands, "generate", generate_command, "continue a prompt", 'headrace generate demo --prompt "To be"'
    )
    add_run(generate)
    generate.add_argument("--prompt", required=True)
    generate.add_argument("--tokens", type=int, default=64, help="how many tokens to add")
    generate.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    generate.add_argument("--top-k", type=int, default=50)
    generate.add_argument("--seed", type=int, default=0)
    evaluate = add_command(
        commands, "evaluate", evaluate_command, "loss on the held-out documents", "headrace evaluate demo"
    )
    add_run(evaluate)
    add_json(evaluate)
    evaluate.add_argument("--max-tokens", type=int, default=1 << 20)
    export = add_command(
        commands, "export", export_command, "write the model in Hugging Face's layout", "headrace export demo --to DIR"
    )
    add_run(export)
    export.add_argument("--to", type=Path, required=True, metavar="DIR")


def compare_command(args: argparse.Namespace) -> int:
    """Print the table, or JSON."""
    from monitoring.compare import compare, to_dict, to_table

    comparison = compare([find_run_folder(run, args.runs_dir) for run in args.run])
    if args.json:
        say_json(to_dict(comparison))
    else:
        say(to_table(comparison))
    return 0


def dashboard_command(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from monitoring.dashboard import serve

    runs_dir = args.runs_dir or next((d for d in RUNS_DIRS if d.is_dir()), RUNS_DIRS[0])
    return serve(
        args.tracking_uri,
        runs_dir=runs_dir,
        port=args.port,
        is_driven=lambda out_dir: run_holder(out_dir) is not None,
    )


def generate_command(args: argparse.Namespace) -> int:
    """Print the prompt and its continuation."""
    from trainer.trained import continue_text, open_trained

    trained = open_trained(find_run_folder(args.run, args.runs_dir).out_dir)
    text = continue_text(
        trained,
        args.prompt,
        tokens=args.tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
    )
    say(args.prompt + text)
    return 0


def evaluate_command(args: argparse.Namespace) -> int:
    """Print loss, perplexity and the unigram model's loss."""
    from trainer.trained import held_out_loss, open_trained

    trained = open_trained(find_run_folder(args.run, args.runs_dir).out_dir)
    scores = held_out_loss(trained, args.max_tokens)
    if args.json:
        say_json({"step": trained.step, **scores})
    else:
        say(
            f"step {trained.step}: loss {scores['loss']:.4f} nats per token, perplexity {scores['perplexity']:.1f}; "
            f"unigram model {scores['unigram_loss']:.4f}; {scores['tokens']:,.0f} held-out tokens"
        )
    return 0


def export_command(args: argparse.Namespace) -> int:
    """Write the folder and say where it is."""
    from trainer.trained import export_trained, open_trained

    trained = open_trained(find_run_folder(args.run, args.runs_dir).out_dir)
    say(f"step {trained.step} written to {export_trained(trained, args.to)}")
    return 0
