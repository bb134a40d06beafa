"""What adversarial training (FGM) does to held-out accuracy: a run file with and without it, over several seeds.

    python -m recipes.adversarial_seeds recipes/reviews.yaml --epsilon 1 --seeds 1 2 3 4 5 [--set a.b=c ...]

Each seed (first weights, dropout, order) is trained twice, by `headrace train`, or with `--without-ray` by
`python -m trainer`; all runs share one dataset. A run that is finished is not trained again, so the command can be
given again after it was stopped. Printed: mean and standard deviation (n - 1) of accuracy and macro F1 over the seeds,
and of the difference within each seed with its standard error, as lines, or as JSON with every run's scores.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCORES = ("val_accuracy", "val_macro_f1")
HEADRACE = (sys.executable, "-m", "cluster.cli", "train")
TRAINER = (sys.executable, "-m", "trainer")


def overrides(name: str, runs_dir: Path, seed: int, epsilon: float | None) -> list[str]:
    """The `--set` words of one run."""
    fields = {"name": name, "out_dir": runs_dir / name, "data.dir": runs_dir / "data", "seed": seed}
    if epsilon is not None:
        fields["train.adversarial.epsilon"] = epsilon
    return [word for field, value in fields.items() for word in ("--set", f"{field}={value}")]


def final_scores(out_dir: Path) -> dict[str, float]:
    """Accuracy and macro F1 after a run's last step, out of its journal.

    Raises: ValueError for a run that has no final evaluation, or no classes.
    """
    lines = [line for path in sorted((out_dir / "journal").glob("attempt-*.jsonl")) for line in path.open()]
    evaluations = [record for record in map(json.loads, lines) if record.get("event") == "eval" and record["final"]]
    if not evaluations or not all(score in evaluations[-1] for score in SCORES):
        raise ValueError(f"{out_dir}: must be a finished run on records with classes; train one to its end")
    return {score: evaluations[-1][score] for score in SCORES}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation, by n - 1; of a single value nan."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else math.nan}


def summary(plain: Sequence[Mapping[str, float]], adversarial: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of each score: both arms' spreads, and that of the difference within a seed, with the mean's standard error."""
    found: dict[str, Any] = {}
    for score in SCORES:
        without, with_fgm = ([run[score] for run in runs] for runs in (plain, adversarial))
        gain = spread([there - here for here, there in zip(without, with_fgm, strict=True)])
        error = gain["sd"] / math.sqrt(len(without))
        found[score] = {"without": spread(without), "with": spread(with_fgm), "gain": {**gain, "error": error}}
    return found


def summary_text(found: Mapping[str, Any], seeds: int, epsilon: float) -> str:
    """The summary for people."""
    lines = [f"{seeds} seeds, epsilon {epsilon:g}"]
    for score, arms in found.items():
        told = "; ".join(f"{arm} {arms[arm]['mean']:.4f} (sd {arms[arm]['sd']:.4f})" for arm in ("without", "with"))
        gain = arms["gain"]
        lines.append(f"{score}: {told}; difference {gain['mean']:+.4f} (standard error {gain['error']:.4f})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status: that of the first run that fails, or 0."""
    parser = argparse.ArgumentParser(description="FGM against none over several seeds")
    parser.add_argument("file", type=Path, help="a run file on records with classes")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs-dir", type=Path, help="default: runs/STEM-fgm beside the run file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="of every run")
    parser.add_argument("--without-ray", action="store_true", help="each run in one process")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    runs_dir = (args.runs_dir or args.file.parent / "runs" / f"{args.file.stem}-fgm").resolve()
    given = [word for field in args.set for word in ("--set", field)]
    runs: dict[str, list[dict[str, float]]] = {"plain": [], "fgm": []}
    for seed in args.seeds:
        for arm, epsilon in (("plain", None), ("fgm", args.epsilon)):
            name = f"{arm}-{seed}"
            words = [*(TRAINER if args.without_ray else HEADRACE), str(args.file), *given]
            done = subprocess.run([*words, *overrides(name, runs_dir, seed, epsilon)], stdout=sys.stderr)
            if done.returncode != 0:
                return done.returncode
            runs[arm].append(final_scores(runs_dir / name))
    found = summary(runs["plain"], runs["fgm"])
    told = {"epsilon": args.epsilon, "seeds": args.seeds, **runs, "summary": found}
    sys.stdout.write((json.dumps(told) if args.json else summary_text(found, len(args.seeds), args.epsilon)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
