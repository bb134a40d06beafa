from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_shards.evaluation import EvaluationBatch
from tests.data_shards.records import write_records
from tests.trainer.trained_run import T, make_run
from trainer.classification import classified
from trainer.errors import TrainError
from trainer.evaluate import held_out_batches
from trainer.language_model import ModelPlace
from trainer.text_classifier import Text, TextClassifier, open_classifier
from trainer.trained import export_trained, open_trained

CLASSES = ("ham", "spam", "list")


def record(number: int) -> dict[str, Any]:
    return {"body": f"mill {number} tide", "subject": f"wheel {number % 7}", "kind": CLASSES[number % 3]}


def classifier_run(folder: Path, **task: str) -> Path:
    """A run on records of three classes, whose weights nobody trained."""
    write_records(folder / "corpus/mails.jsonl", map(record, range(200)))
    source = {"path": "corpus/mails.jsonl", "task": {"text": "body", "label": "kind", **task}}
    return make_run(folder, (10, 20), sources=[source], classes=list(CLASSES))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def classifier(run: Path) -> TextClassifier:
    return open_classifier(ModelPlace(run, is_run=True))


def alone(classifier: TextClassifier, ids: list[int]) -> np.ndarray:
    """Of one text, without padding."""
    with torch.no_grad():
        return classifier.model(torch.tensor([ids]))[0, -1].softmax(-1).numpy()


def test_probabilities_of_a_batch_are_those_of_each_text_by_itself(classifier: TextClassifier) -> None:
    texts = ["mill", "a tide of mills 三国", "x", *(f"{number} wheel" for number in range(40))]
    found = classifier.probabilities([Text(text) for text in texts])
    assert found.shape == (43, 3)
    assert found.sum(1) == pytest.approx(np.ones(43), abs=1e-5)
    wanted = [alone(classifier, [int(id) for id in classifier.encode(text)]) for text in texts]
    assert found == pytest.approx(np.array(wanted), abs=1e-5)
    assert len(np.unique(found.argmax(1))) > 1


def test_probabilities_agree_with_the_held_out_evaluation(run: Path, classifier: TextClassifier) -> None:
    """The classes that the run's own evaluation predicts, from the stored tokens."""
    trained = open_trained(run)
    batches: list[EvaluationBatch] = list(held_out_batches(trained.config, trained.dataset, max_tokens=1 << 20)())
    matrix = classified(trained.model(), batches, 3, torch.device("cpu")).matrix
    held_out = sum(shard.documents for shard in trained.dataset.split("val"))
    from_texts = classifier.probabilities([Text(record(number)["body"]) for number in range(200)]).argmax(1)
    rows = np.zeros((3, 3), np.int64)
    np.add.at(rows, (np.arange(200) % 3, from_texts), 1)
    assert 20 < held_out == matrix.sum() < 200
    assert (matrix <= rows).all()
    assert classifier.fields == ("body",)


def test_pairs_are_read_with_the_end_mark_between(tmp_path: Path) -> None:
    pairs = open_classifier(ModelPlace(classifier_run(tmp_path, pair="subject"), is_run=True))
    assert pairs.fields == ("body", "subject")
    [found] = pairs.probabilities([Text("mill", "tide")])
    first, second = ([int(id) for id in pairs.encode(text)] for text in ("mill", "tide"))
    assert found == pytest.approx(alone(pairs, [*first, pairs.eot_id, *second]), abs=1e-5)
    with pytest.raises(TrainError, match="text 2: the run was trained on pairs of texts; found a single text"):
        pairs.probabilities([Text("mill", "tide"), Text("mill")])


def test_texts_that_cannot_be_classified_are_refused(classifier: TextClassifier) -> None:
    with pytest.raises(TrainError, match="text 2: must have at least one character"):
        classifier.probabilities([Text("a"), Text("")])
    with pytest.raises(TrainError, match="trained on single texts; found a pair of texts"):
        classifier.probabilities([Text("a", "b")])


def test_text_that_is_too_long_loses_its_beginning(
    classifier: TextClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    text = "三国 " * 30
    ids = [int(id) for id in classifier.encode(text)]
    with caplog.at_level(logging.WARNING):
        [found] = classifier.probabilities([Text(text)])
    assert found == pytest.approx(alone(classifier, ids[len(ids) - T + 1 :]), abs=1e-5)
    assert f"the first {len(ids) - T + 1} tokens are left out" in caplog.text


def test_classifier_out_of_an_export_gives_the_runs_probabilities(
    run: Path, classifier: TextClassifier, tmp_path: Path
) -> None:
    texts = [Text("mill 7 tide"), Text("x")]
    exported = open_classifier(ModelPlace(export_trained(open_trained(run), tmp_path / "model"), is_run=False))
    assert (exported.classes, exported.fields) == (CLASSES, None)
    assert exported.probabilities(texts) == pytest.approx(classifier.probabilities(texts), abs=1e-5)


def test_classifier_of_a_step_has_its_weights(run: Path, classifier: TextClassifier) -> None:
    older = open_classifier(ModelPlace(run, is_run=True, step=10))
    assert not np.allclose(older.probabilities([Text("mill")]), classifier.probabilities([Text("mill")]), atol=1e-3)


def test_language_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = export_trained(open_trained(run), tmp_path / "model")
    for place in (ModelPlace(run, is_run=True), ModelPlace(folder, is_run=False)):
        with pytest.raises(TrainError, match="a classifier is needed, and this is a language model"):
            open_classifier(place)
