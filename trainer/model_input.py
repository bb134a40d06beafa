"""From rows as they are read to what the model is called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.cuts import decoder_labels
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
    weights_bt: Tensor  # float32 [B, T], 0 for labels that do not count
    documents: DocumentLayout | None  # None where every row is one document
    decoder_starts_bt: Tensor | None = None  # int64 [B, T], for an encoder-decoder alone

    def loss(self, model: Any, embedding_shift_btc: Tensor | None = None) -> Tensor:
        """The scalar sum of weight * cross-entropy, by a GPT or a DeepSpeed engine around one."""
        cuts = {} if self.decoder_starts_bt is None else {"decoder_starts_bt": self.decoder_starts_bt}
        shift = {} if embedding_shift_btc is None else {"embedding_shift_btc": embedding_shift_btc}
        loss: Tensor = model(self.tokens_bt, self.labels_bt, self.weights_bt, documents=self.documents, **cuts, **shift)
        return loss

    def logits(self, model: Any) -> Tensor:
        """[B, T, V], by a GPT."""
        cuts = {} if self.decoder_starts_bt is None else {"decoder_starts_bt": self.decoder_starts_bt}
        logits: Tensor = model(self.tokens_bt, documents=self.documents, **cuts)
        return logits


def counted_labels(batch: Batch) -> NDArray[np.bool_]:
    """Which labels the loss counts, bool [R, T]: not those of rows that only pad, nor other documents' first tokens.

    Where records say which of their tokens count, these alone; where texts are cut, those of the decoder's part.
    """
    seq_len = batch.tokens.shape[1] - 1
    counted = np.repeat(batch.real[:, None], seq_len, axis=1)
    if batch.document_starts is not None:
        counted = counted & label_mask(batch.document_starts, seq_len)
    if batch.loss_mask is not None:
        counted = counted & batch.loss_mask[:, 1:]
    return counted if batch.decoder_starts is None else counted & decoder_labels(batch.decoder_starts)


def model_input(
    batch: Batch, weights: NDArray[np.bool_] | NDArray[np.float32], rows: slice, device: torch.device
) -> ModelInput:
    """Some rows of a batch, whose labels weigh `weights` [R, T]: `counted_labels`, or `loss_weights` of them."""
    tokens = torch.from_numpy(batch.tokens[rows]).to(device)
    starts, seq_len, cuts = batch.document_starts, tokens.shape[1] - 1, batch.decoder_starts
    return ModelInput(
        tokens_bt=tokens[:, :-1],
        labels_bt=tokens[:, 1:],
        weights_bt=torch.from_numpy(weights[rows]).to(device, torch.float32),
        documents=None if starts is None else document_layout(piece_lengths(starts[rows], seq_len), seq_len, device),
        decoder_starts_bt=None if cuts is None else torch.from_numpy(cuts[rows]).to(device),
    )
