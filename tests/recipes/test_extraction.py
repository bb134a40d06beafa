"""Fields read off forms, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.data.forms import WORDINGS, Order, record, write
from recipes.extraction import by_expressions, by_nearest, fields_of, main, read_records, scores

ORDER: Order = (("name", "Vera Roth"), ("item", "gate"), ("count", "12"), ("place", "Kiel"), ("day", "3 May"))


@pytest.mark.parametrize("wording", WORDINGS)
def test_expressions_read_every_wording_of_the_training_file(wording: str) -> None:
    assert by_expressions(record(ORDER, wording)["prompt"]) == dict(ORDER)


def test_fields_of_a_text_are_those_with_a_colon() -> None:
    assert fields_of(" name: Vera Roth; day: 3 May; and\n") == {"name": "Vera Roth", "day": "3 May"}
    assert fields_of(record(ORDER, WORDINGS[0])["completion"]) == dict(ORDER)


def test_scores_count_forms_with_every_field_and_each_field() -> None:
    wanted = [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"a": "5", "b": "6"}, {"a": "7", "b": "8"}]
    found = [{"a": "1", "b": "2"}, {"a": "3", "b": "5"}, {"b": "6"}, {"a": "7", "b": "8", "c": "9"}]
    assert scores(wanted, found) == {"forms": 4, "exact": 0.25, "fields": {"a": 0.75, "b": 0.75}}


def test_nearest_form_is_the_one_of_the_same_words() -> None:
    train = [record((*ORDER[:3], ("place", place), ORDER[4]), WORDINGS[1]) for place in ("Bonn", "Kiel", "Mainz")]
    assert by_nearest(train)([train[1]["prompt"], train[2]["prompt"]]) == [
        dict(ORDER),
        {**dict(ORDER), "place": "Mainz"},
    ]


def test_extraction_of_texts_by_a_model_prints_their_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = {**record(ORDER, WORDINGS[0]), "text": "name: Vera Roth; item: gate; count: 12; place: Kiel; day: 3 May"}
    wrong = {**right, "text": right["text"].replace("12", "21")}
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(right) + "\n" + json.dumps(wrong) + "\n")
    assert main([str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"forms": 2, "exact": 0.5, "fields": {**dict.fromkeys(dict(ORDER), 1.0), "count": 0.5}}
    with pytest.raises(ValueError, match=r"out\.jsonl:1: must have 'label'"):
        read_records(path, ("prompt", "label"))


def test_files_of_forms_are_those_that_are_kept_and_share_no_order(tmp_path: Path) -> None:
    write(tmp_path)
    kept = Path(__file__).parents[2] / "recipes/corpus/forms"
    completions = {}
    for name in ("train", "test", "unseen"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (kept / f"{name}.jsonl").read_bytes()
        completions[name] = {one["completion"] for one in read_records(kept / f"{name}.jsonl", ("completion",))}
    assert {name: len(own) for name, own in completions.items()} == {"train": 3000, "test": 300, "unseen": 100}
    assert len(set().union(*completions.values())) == 3400
