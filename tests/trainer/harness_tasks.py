"""Runs lm-evaluation-harness on three local tasks; started by test_harness.py in a process that has the harness.

`python harness_tasks.py RUN FOLDER`: FOLDER has questions.jsonl and texts.jsonl; the results are printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trainer.harness import harness_model
from trainer.language_model import ModelPlace, open_language_model


def task(name: str, file: Path, **fields: Any) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        **fields,
    }


def tasks(folder: Path) -> list[dict[str, Any]]:
    questions, texts = folder / "questions.jsonl", folder / "texts.jsonl"
    mean = {"aggregation": "mean", "higher_is_better": True}
    return [
        task(
            "choice",
            questions,
            output_type="multiple_choice",
            doc_to_text="{{prompt}}",
            doc_to_choice="{{choices}}",
            doc_to_target="{{answer}}",
            metric_list=[{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
        ),
        task(
            "rolling",
            texts,
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=[{"metric": "bits_per_byte"}],
        ),
        task(
            "until",
            texts,
            output_type="generate_until",
            doc_to_text="{{prompt}}",
            doc_to_target="{{continuation}}",
            generation_kwargs={"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False},
            metric_list=[{"metric": "exact_match", **mean}],
        ),
    ]


def main() -> None:
    from lm_eval import simple_evaluate

    run, folder = map(Path, sys.argv[1:])
    model = harness_model(open_language_model(ModelPlace(run, is_run=True)))
    results = simple_evaluate(model, tasks=tasks(folder), bootstrap_iters=0)
    print(json.dumps(results["results"]))  # noqa: T201


if __name__ == "__main__":
    main()
