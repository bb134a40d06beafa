from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from data_shards.evaluation import EvaluationBatch
from trainer.classification import Classified, class_weights, classified, journal_facts, prior_loss
from trainer.classification_report import report_of, report_text
from trainer.errors import TrainError

NAMES = ("ham", "spam", "list")


@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@settings(deadline=None)
def test_metrics_of_a_matrix_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    matrix = np.zeros((4, 4), np.int64)
    np.add.at(matrix, (np.array(true), np.array(predicted)), 1)
    result = Classified(matrix, 2.0)
    assert result.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(true, predicted, average="macro"))
    assert (result.texts, result.loss) == (len(pairs), pytest.approx(2.0 / len(pairs)))


def test_metrics_of_no_texts_are_zero() -> None:
    result = Classified(np.zeros((2, 2), np.int64), 0.0)
    assert (result.accuracy, result.macro_f1, result.loss, result.texts) == (0.0, 0.0, 0.0, 0)


def test_class_weights_balanced_make_classes_weigh_the_same_and_texts_one_on_average() -> None:
    counts = np.array([90, 9, 1])
    weights = class_weights("balanced", NAMES, counts)
    assert weights is not None and weights.dtype == np.float32
    assert weights * counts == pytest.approx([100 / 3] * 3)
    assert class_weights(None, NAMES, counts) is None


def test_class_weights_by_name_leave_the_others_at_one() -> None:
    weights = class_weights({"spam": 2.5}, NAMES, np.array([1, 0, 1]))
    assert weights is not None and weights.tolist() == [1.0, 2.5, 1.0]


def test_class_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(TrainError, match=r"train\.class_weights: names are those.*found 'Spam'"):
        class_weights({"Spam": 2.0}, NAMES, np.array([1, 1, 1]))
    with pytest.raises(TrainError, match="'spam' has none"):
        class_weights("balanced", NAMES, np.array([3, 0, 1]))


def test_prior_loss_is_that_of_the_classes_frequencies() -> None:
    loss = prior_loss(np.array([5, 2]), np.array([0, 0, 1]))
    assert loss == pytest.approx(-(2 * math.log(6 / 9) + math.log(3 / 9)) / 3)
    assert prior_loss(np.array([5, 2]), np.empty(0, np.int64)) == 0.0


def test_classified_counts_labels_of_the_mask_alone_over_batches_and_beats_with_each() -> None:
    """Rows of T = 4; each label is the class itself, which this model guesses from the token before it."""
    tokens = np.array([[9, 1, 1, 8, 0], [7, 2, 2, 2, 1], [0, 0, 0, 0, 0]])
    mask = np.zeros((3, 5), np.bool_)
    mask[[0, 0, 1], [2, 4, 4]] = True
    batch = EvaluationBatch(tokens, np.array([True, True, False]), None, mask)
    scores = torch.full((10, 3), -2.0)
    scores[torch.arange(10), torch.arange(10) % 3] = 2.0
    beats: list[None] = []
    result = classified(
        lambda tokens_bt, documents: scores[tokens_bt],
        [batch, batch],
        3,
        torch.device("cpu"),
        lambda: beats.append(None),
    )
    assert result.matrix.tolist() == [[0, 0, 2], [0, 2, 2], [0, 0, 0]]
    likely = math.log(math.exp(2) + 2 * math.exp(-2))
    assert result.loss_sum == pytest.approx(2 * (likely - 2 + 2 * (likely + 2)))
    assert len(beats) == 2


def test_journal_facts_and_report_tell_the_matrix_by_true_class() -> None:
    result = Classified(np.array([[40, 2, 0], [5, 13, 0], [0, 0, 0]]), 6.0)
    facts = journal_facts(result, NAMES)
    assert facts["confusion"] == [[40, 2, 0], [5, 13, 0], [0, 0, 0]]
    assert facts["val_accuracy"] == pytest.approx(53 / 60)
    report = report_of(result, NAMES)
    assert report["by_class"]["spam"] == {
        **{"texts": 18, "precision": 13 / 15, "recall": 13 / 18, "f1": 26 / 33},
    }
    assert report["by_class"]["list"] == {"texts": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    lines = report_text(report).splitlines()
    assert lines[0] == "accuracy 88.3%, macro F1 0.854, loss 0.1000 nats per text; 60 held-out texts"
    assert lines[-2:] == ["spam      5    13     0", "list      0     0     0"]
