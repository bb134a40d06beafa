from __future__ import annotations

import numpy as np
import torch

from data_shards.evaluation import EvaluationBatch
from trainer.evaluate import label_ids, summed_loss
from trainer.model_input import counted_labels, model_input

CPU = torch.device("cpu")
ROWS = np.arange(15).reshape(3, 5)  # T = 4
REAL = np.array([True, True, False])
STARTS = (np.array([2, 4]), np.empty(0, np.int64), np.empty(0, np.int64))

STREAM = EvaluationBatch(ROWS, REAL)
DOCUMENTS = EvaluationBatch(ROWS, REAL, STARTS)


def test_counted_labels_leave_out_padding_and_first_tokens_of_documents() -> None:
    assert counted_labels(STREAM).tolist() == [[True] * 4, [True] * 4, [False] * 4]
    assert counted_labels(DOCUMENTS).tolist() == [[True, False, True, False], [True] * 4, [False] * 4]


def test_model_input_of_a_stream_has_no_documents() -> None:
    inputs = model_input(STREAM, counted_labels(STREAM), slice(1, 3), CPU)
    assert inputs.documents is None
    assert inputs.tokens_bt.tolist() == [[5, 6, 7, 8], [10, 11, 12, 13]]
    assert inputs.labels_bt.tolist() == [[6, 7, 8, 9], [11, 12, 13, 14]]
    assert inputs.weights_bt.tolist() == [[1.0] * 4, [0.0] * 4]
    assert inputs.weights_bt.dtype == torch.float32


def test_model_input_of_documents_lays_out_its_rows_alone() -> None:
    inputs = model_input(DOCUMENTS, counted_labels(DOCUMENTS), slice(0, 2), CPU)
    assert inputs.documents is not None
    assert inputs.documents.positions_bt.tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert inputs.weights_bt.tolist() == [[1.0, 0.0, 1.0, 0.0], [1.0] * 4]


def test_label_ids_are_those_that_the_loss_counts() -> None:
    assert label_ids([STREAM]).tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert label_ids([DOCUMENTS, STREAM]).tolist() == [1, 3, 6, 7, 8, 9, 1, 2, 3, 4, 6, 7, 8, 9]


def test_summed_loss_counts_labels_over_batches_and_beats_with_each() -> None:
    beats = []

    def weighted(
        tokens_bt: torch.Tensor, labels_bt: torch.Tensor, weights_bt: torch.Tensor, documents: object
    ) -> object:
        return (labels_bt * weights_bt).sum()

    loss_sum, labels = summed_loss(weighted, [DOCUMENTS, STREAM], CPU, lambda: beats.append(None))
    assert (loss_sum, labels, len(beats)) == (74.0, 14, 2)
