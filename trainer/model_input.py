"""From rows as they are read to what the model is called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.evaluation import EvaluationBatch
from data_shards.loader import StepBatch
from data_shards.packing import label_mask, piece_lengths
from model.documents import DocumentLayout, document_layout

Batch = StepBatch | EvaluationBatch


@dataclass(frozen=True)
class ModelInput:
    """Rows on the device of the model."""

    tokens_bt: Tensor  # int64 [B, T]
    labels_bt: Tensor  # int64 [B, T]
    weights_bt: Tensor  # float32 [B, T], 0 or 1
    documents: DocumentLayout | None  # None where every row is one document

    def loss(self, model: Any) -> Tensor:
        """The scalar sum of weight * cross-entropy, by a GPT or a DeepSpeed engine around one."""
        loss: Tensor = model(self.tokens_bt, self.labels_bt, self.weights_bt, documents=self.documents)
        return loss


def counted_labels(batch: Batch) -> NDArray[np.bool_]:
    """Which labels the loss counts, bool [R, T]: not those of rows that only pad, nor other documents' first tokens."""
    seq_len = batch.tokens.shape[1] - 1
    real = np.repeat(batch.real[:, None], seq_len, axis=1)
    return real if batch.document_starts is None else real & label_mask(batch.document_starts, seq_len)


def model_input(batch: Batch, counted: NDArray[np.bool_], rows: slice, device: torch.device) -> ModelInput:
    """Some rows of a batch, whose `counted_labels` are `counted`."""
    tokens = torch.from_numpy(batch.tokens[rows]).to(device)
    starts, seq_len = batch.document_starts, tokens.shape[1] - 1
    return ModelInput(
        tokens_bt=tokens[:, :-1],
        labels_bt=tokens[:, 1:],
        weights_bt=torch.from_numpy(counted[rows]).to(device, torch.float32),
        documents=None if starts is None else document_layout(piece_lengths(starts[rows], seq_len), seq_len, device),
    )
