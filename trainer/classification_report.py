"""What a trained classifier does on its held-out texts, for `headrace evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainer.classification import Classified, classified
from trainer.errors import TrainError
from trainer.evaluate import held_out_batches
from trainer.trained import Trained


def classification_report(trained: Trained, max_tokens: int) -> dict[str, Any]:
    """Loss (nats per text), accuracy and macro F1 on the run's first `max_tokens` held-out tokens, the confusion
    matrix [true][predicted], and of each class: texts, precision, recall, F1.

    Raises:
        TrainError: the run's records have no classes.
    """
    classes = trained.dataset.classes
    if not classes:
        raise TrainError(
            f"{trained.config.out_dir}: its records have no classes, so there is nothing to classify. Ask for its loss."
        )
    batches = held_out_batches(trained.config, trained.dataset, max_tokens=max_tokens)
    return report_of(classified(trained.model(), batches(), len(classes), torch.device("cpu")), classes)


def report_of(result: Classified, classes: Sequence[str]) -> dict[str, Any]:
    """The report of counted texts. Pure; plain values, fit for JSON."""
    return {
        "texts": result.texts,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "macro_f1": result.macro_f1,
        "classes": list(classes),
        "confusion": result.matrix.tolist(),
        "by_class": {name: _of_class(result, number) for number, name in enumerate(classes)},
    }


def _of_class(result: Classified, number: int) -> dict[str, float]:
    hits = int(result.matrix[number, number])
    true, predicted = int(result.matrix[number].sum()), int(result.matrix[:, number].sum())
    return {
        "texts": true,
        "precision": hits / max(predicted, 1),
        "recall": hits / max(true, 1),
        "f1": 2 * hits / max(true + predicted, 1),
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report for people: a line in sum, one for each class, and the confusion matrix."""
    head = (
        f"accuracy {report['accuracy']:.1%}, macro F1 {report['macro_f1']:.3f}, loss {report['loss']:.4f} nats per "
        f"text; {report['texts']:,} held-out texts"
    )
    classes, rows = report["classes"], np.array(report["confusion"])
    width = max(map(len, classes))
    lines = [
        f"{name:<{width}}  {own['texts']:>7,} texts  precision {own['precision']:.3f}  recall {own['recall']:.3f}  "
        f"F1 {own['f1']:.3f}"
        for name, own in report["by_class"].items()
    ]
    cell = max(len(f"{rows.max(initial=0):,}"), 5)
    table = [
        f"{name:<{width}}  " + " ".join(f"{n:>{cell},}" for n in row) for name, row in zip(classes, rows, strict=True)
    ]
    return "\n".join(
        [head, "", *lines, "", "texts by true class (rows) and predicted class (columns, in the same order):", *table]
    )
