"""Training and judging a classifier: weights of classes, the confusion matrix on held-out texts, what follows of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data_shards.class_counts import class_counts
from data_shards.dataset import Dataset
from data_shards.evaluation import EvaluationBatch
from data_shards.permutation import Int64Array
from trainer.collectives import reduce_sum
from trainer.errors import TrainError
from trainer.evaluate import Batches
from trainer.model_input import counted_labels, model_input

AskedWeights = Literal["balanced"] | Mapping[str, float] | None


@dataclass(frozen=True)
class Classified:
    """Held-out texts by (true class, predicted class), and the sum of their cross-entropy in nats, unweighted."""

    matrix: Int64Array  # [classes, classes]
    loss_sum: float

    @property
    def texts(self) -> int:
        """How many there are."""
        return int(self.matrix.sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats per text; 0.0 of none."""
        return self.loss_sum / max(self.texts, 1)

    @property
    def accuracy(self) -> float:
        """Share of the texts whose class is the predicted one; 0.0 of none."""
        return float(np.trace(self.matrix)) / max(self.texts, 1)

    @property
    def macro_f1(self) -> float:
        """Mean over classes of F1 = 2 hits / (true + predicted); classes with neither are left out. 0.0 of none."""
        sums = self.matrix.sum(1) + self.matrix.sum(0)
        if not sums.any():
            return 0.0
        return float(np.mean(2 * np.diag(self.matrix)[sums > 0] / sums[sums > 0]))


def class_weights(asked: AskedWeights, classes: Sequence[str], counts: Int64Array) -> NDArray[np.float32] | None:
    """The factor of each class's loss, float32 [classes]; None where all count alike. Pure.

    asked: `train.class_weights`. balanced: texts / (classes * the class's texts), by which all classes weigh the same
    in sum (King and Zeng 2001), and the mean over the training texts is 1. counts: int64 [classes], of the training
    split. By name: a class that is not named weighs 1. The loss stays the mean over the texts of a batch: were it
    divided by the sum of their weights, those of a batch with one class alone would cancel out.

    Raises:
        TrainError: a name that no class has; a class without a text that is to be balanced.
    """
    if asked is None:
        return None
    if isinstance(asked, Mapping):
        if unknown := sorted(asked.keys() - set(classes)):
            raise TrainError(
                f"train.class_weights: names are those of the dataset's classes ({', '.join(classes)}); found "
                f"{unknown[0]!r}. Correct it."
            )
        return np.array([asked.get(name, 1.0) for name in classes], np.float32)
    if not counts.all():
        missing = classes[int(np.argmin(counts))]
        raise TrainError(
            f"train.class_weights: balanced needs training texts of every class; {missing!r} has none. Give weights "
            "by name, or leave the class out of data.classes."
        )
    balanced: NDArray[np.float32] = (counts.sum() / (len(counts) * counts)).astype(np.float32)
    return balanced


def prior_loss(training: Int64Array, labels: Int64Array) -> float:
    """Loss in nats per label of the model that knows nothing but how frequent each class is; 0.0 of no labels.

    training: texts of each class, int64 [classes], to which one is added (Laplace); labels: classes, int64 [n].
    """
    numbers = training + 1.0
    return float((math.log(numbers.sum()) - np.log(numbers[labels])).mean()) if len(labels) else 0.0


def trained_class_weights(asked: AskedWeights, dataset: Dataset, device: torch.device) -> torch.Tensor | None:
    """`class_weights` of a dataset's training split, float32 [classes].

    Raises:
        TrainError: as `class_weights`, or weights for a dataset without classes.
        DataError: a shard cannot be read.
    """
    if asked is None:
        return None
    if not dataset.classes:
        raise TrainError(
            f"train.class_weights: is for records with a class, and those of {dataset.dir} have none. Leave it out."
        )
    weights = class_weights(asked, dataset.classes, class_counts(dataset, len(dataset.classes)))
    return None if weights is None else torch.from_numpy(weights).to(device)


@torch.no_grad()
def classified(
    model: Any,
    batches: Iterable[EvaluationBatch],
    n_classes: int,
    device: torch.device,
    beat: Callable[[], None] | None = None,
) -> Classified:
    """One rank's batches through a model in evaluation mode; beats with each batch."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        if beat is not None:
            beat()
        counted = counted_labels(batch)
        inputs = model_input(batch, counted, slice(None), device)
        logits_btk = model(inputs.tokens_bt, documents=inputs.documents)
        chosen = torch.from_numpy(counted).to(device)
        logits_nk, labels_n = logits_btk[chosen].float(), inputs.labels_bt[chosen]
        loss_sum += torch.nn.functional.cross_entropy(logits_nk, labels_n, reduction="sum")
        np.add.at(matrix, (labels_n.cpu().numpy(), logits_nk.argmax(1).cpu().numpy()), 1)
    return Classified(matrix, float(loss_sum))


def evaluate_classes(engine: Any, batches: Batches, n_classes: int, beat: Callable[[], None]) -> Classified:
    """The held-out texts of all ranks, without dropout. Every rank must call it, with equally many batches."""
    engine.eval()
    mine = classified(engine.module, batches(), n_classes, engine.device, beat)
    engine.train()
    loss_sum, *counts = reduce_sum([mine.loss_sum, *mine.matrix.ravel().astype(float).tolist()], engine.device)
    return Classified(np.array(counts).round().astype(np.int64).reshape(mine.matrix.shape), loss_sum)


def journal_facts(result: Classified, classes: Sequence[str]) -> dict[str, Any]:
    """What the journal's eval event says of a classifier beside its loss."""
    return {
        "val_accuracy": result.accuracy,
        "val_macro_f1": result.macro_f1,
        "classes": list(classes),
        "confusion": result.matrix.tolist(),
    }
