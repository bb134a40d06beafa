"""What a finished run prints."""

from __future__ import annotations

from typing import Any

from cluster.report import summary_lines

STEP = {"step": 1, "loss": 1.0, "tokens_per_second": 100.0, "mfu": 0.5}
EVAL = {"event": "eval", "final": True, "step": 1, "tokens": 2048, "unigram_loss": 0.7, "samples": []}


def test_summary_of_a_classifier_says_how_many_texts_it_was_judged_on() -> None:
    scores: dict[str, Any] = {"val_loss": 0.4, "val_accuracy": 0.8, "val_macro_f1": 0.75, "classes": ["ham", "spam"]}
    lines = summary_lines([STEP, {**EVAL, **scores, "confusion": [[700, 100], [200, 500]]}])
    assert lines[1] == (
        "held-out accuracy 80.0%, macro F1 0.750 on 1,500 texts of 2 classes; loss 0.400 nats per text, from their "
        "frequency alone 0.700"
    )


def test_summary_of_a_language_model_compares_its_loss_with_the_unigram_models() -> None:
    lines = summary_lines([STEP, {**EVAL, "val_loss": 0.4}])
    assert lines[1].endswith("0.300 below it")
