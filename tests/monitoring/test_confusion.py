"""The confusion matrix as a picture and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from monitoring.confusion import newest_confusion, save_confusion
from monitoring.forward import Forwarder
from monitoring.translate import Translator
from tests.monitoring.journals import end, evaluation, start, step, write_journal
from tests.monitoring.stores import FakeRun

_PNG = b"\x89PNG\r\n\x1a\n"
_FACTS = {"classes": ["ham", "spam"], "confusion": [[40, 2], [5, 13]], "val_accuracy": 53 / 60, "val_macro_f1": 0.85}


def test_save_confusion_writes_a_picture_and_the_numbers(tmp_path: Path) -> None:
    picture, data = save_confusion(evaluation(9, 0.5, **_FACTS), tmp_path)
    assert picture.read_bytes().startswith(_PNG)
    assert json.loads(data.read_text()) == {
        **{"step": 9, "classes": ["ham", "spam"], "confusion": [[40, 2], [5, 13]]},
        **{"accuracy": 53 / 60, "macro_f1": 0.85},
    }
    other, _ = save_confusion(evaluation(9, 0.5, **{**_FACTS, "confusion": [[42, 0], [0, 18]]}), _made(tmp_path / "b"))
    assert other.read_bytes() != picture.read_bytes()


def test_save_confusion_of_many_classes_without_texts_is_drawn(tmp_path: Path) -> None:
    facts = {"classes": [f"类 {i}" for i in range(30)], "confusion": [[0] * 30] * 30}
    picture, _ = save_confusion(evaluation(9, 0.5, **facts), tmp_path)
    assert picture.read_bytes().startswith(_PNG)


def test_newest_confusion_is_the_last_evaluations_that_has_one() -> None:
    records = [start(), evaluation(1, 3.0, **_FACTS), evaluation(2, 2.0, **_FACTS), step(3), evaluation(3, 1.0)]
    assert newest_confusion(records) == records[2]
    assert newest_confusion([start(), evaluation(3, 1.0)]) is None


def test_translate_evaluation_of_a_classifier_gives_its_scores_as_metrics() -> None:
    points = Translator().translate([evaluation(4, 0.5, **_FACTS), evaluation(4, 0.5, **_FACTS, final=True)]).points
    values = {point.key: point.value for point in points}
    assert values["val_accuracy"] == values["final_val_accuracy"] == 53 / 60
    assert values["val_macro_f1"] == values["final_val_macro_f1"] == 0.85
    assert not [key for key in values if "confusion" in key or "classes" in key]


def test_add_plot_of_a_classifier_stores_the_matrix_beside_the_losses(tmp_path: Path) -> None:
    write_journal(tmp_path, start(), step(1), evaluation(1, 0.5, **_FACTS, final=True), end(1))
    run = FakeRun()
    forwarder = Forwarder(tmp_path, run)  # type: ignore[arg-type]
    while forwarder.forward():
        pass
    forwarder.add_plot()
    assert run.files == ["loss.png", "goodput.png", "confusion.png", "confusion.json"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
