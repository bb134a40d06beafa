"""Trains the recipes of fine-tuning and prints what they reach beside their baselines, as the rows of README's tables.

    python -m recipes.measure [mails newsgroups reviews completions] [--runs-dir recipes/runs]

All corpora must be there (recipes/README.md says how to fetch them). Everything is done by the commands that a user
would give, on the test file, which nothing was chosen by: `headrace run`, `headrace evaluate`, `headrace generate`,
`recipes.baselines`, `recipes.extraction`. A run that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent
HEADRACE = (sys.executable, "-m", "cluster.cli")
NAMES = ("mails", "newsgroups", "reviews", "completions")


@dataclass(frozen=True)
class Variant:
    """A run of a recipe: its name, its file, and which fields differ from it."""

    name: str
    file: str
    fields: tuple[str, ...] = ()


VARIANTS = {
    "mails": (Variant("mails", "mails.yaml"),),
    "newsgroups": (Variant("newsgroups", "newsgroups.yaml"),),
    "reviews": (
        Variant("reviews", "reviews.yaml"),
        Variant("reviews_one_stage", "reviews.yaml", ("train.stages=[]",)),
        Variant("reviews_from_nothing", "reviews.yaml", ("train.stages=[]", "init_from=null")),
    ),
}


def command(words: Sequence[str]) -> str:
    """Run a command to its end; what it prints. Its messages go to the terminal.

    Raises: SystemExit where it fails.
    """
    done = subprocess.run([*words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: ended with status {done.returncode}; mend what it says above")
    return done.stdout


def train(variant: Variant, runs_dir: Path) -> Path:
    """Train a variant to its end; its folder."""
    out_dir = runs_dir / variant.name
    fields = [f"name={variant.name}", f"out_dir={out_dir}", *variant.fields]
    command([*HEADRACE, "run", str(RECIPES / variant.file), *(word for one in fields for word in ("--set", one))])
    return out_dir


def effort(out_dir: Path) -> dict[str, float]:
    """Steps, tokens and seconds of training of a run, out of its journal; a step that was made twice counts twice."""
    lines = [line for path in sorted((out_dir / "journal").glob("attempt-*.jsonl")) for line in path.open()]
    steps = [record for record in map(json.loads, lines) if "event" not in record]
    seconds = sum(record["step_seconds"] for record in steps)
    return {"steps": steps[-1]["step"], "tokens": steps[-1]["tokens"], "seconds": seconds}


def effort_text(out_dir: Path) -> str:
    """The same as cells of a row."""
    found = effort(out_dir)
    return f"{found['steps']:,} | {found['tokens']:,} | {found['seconds']:.0f}"


def class_rows(name: str, runs_dir: Path) -> list[str]:
    """Rows of a classification recipe: each variant, and the baseline."""
    if name == "reviews":
        train(Variant("reviews_text", "reviews_text.yaml"), runs_dir)
    rows = []
    for variant in VARIANTS[name]:
        out_dir = train(variant, runs_dir)
        found = json.loads(command([*HEADRACE, "evaluate", str(out_dir), "--json", "--max-tokens", str(1 << 23)]))
        rows.append(class_row(variant.name, found, effort_text(out_dir)))
    files = [str(RECIPES / "corpus" / name / f"{part}.jsonl") for part in ("train", "test")]
    found = json.loads(command([sys.executable, "-m", "recipes.baselines", *files, "--json"]))
    label = f"TF-IDF of {found['features']}, logistic regression"
    return [*rows, class_row(label, found, f"| | {found['cpu_seconds']:.0f}")]


def class_row(label: str, found: dict[str, Any], effort: str) -> str:
    """A row of the table of classes."""
    return f"| {label} | {found['accuracy']:.1%} | {found['macro_f1']:.3f} | {effort} |"


def form_rows(runs_dir: Path) -> list[str]:
    """Rows of the recipe of forms: the model and both baselines, on known and on unseen wordings."""
    out_dir, forms = train(Variant("completions", "completions.yaml"), runs_dir), RECIPES / "corpus/forms"
    rows = []
    for by in ("model", "expressions", "nearest"):
        shares = [form_scores(by, out_dir, forms / f"{part}.jsonl") for part in ("test", "unseen")]
        rows.append(
            f"| {by} | {shares[0]:.1%} | {shares[1]:.1%} | {effort_text(out_dir) if by == 'model' else '| |'} |"
        )
    return rows


def form_scores(by: str, out_dir: Path, forms: Path) -> float:
    """Share of a file's forms of which every field is right."""
    words = [sys.executable, "-m", "recipes.extraction", "--json", "--by", by]
    if by == "model":
        texts = out_dir / f"{forms.stem}-texts.jsonl"
        generate = [*HEADRACE, "generate", str(out_dir), "--file", str(forms), "--to", str(texts)]
        command([*generate, "--temperature", "0", "--max-tokens", "64"])
        forms = texts
    elif by == "nearest":
        words += ["--train", str(RECIPES / "corpus/forms/train.jsonl")]
    return float(json.loads(command([*words, str(forms)]))["exact"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="train the recipes and print their tables")
    parser.add_argument("names", nargs="*", metavar="RECIPE", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--runs-dir", type=Path, default=RECIPES / "runs")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"a recipe must be one of {', '.join(NAMES)}; found {unknown[0]!r}")
    for name in args.names or NAMES:
        rows = (
            form_rows(args.runs_dir.resolve()) if name == "completions" else class_rows(name, args.runs_dir.resolve())
        )
        head = "every field right | of unseen wordings" if name == "completions" else "accuracy | macro F1"
        sys.stdout.write(f"\n| {name} | {head} | steps | tokens | seconds |\n|---|---|---|---|---|---|\n")
        sys.stdout.write("\n".join(rows) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
