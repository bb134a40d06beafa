"""What a start event tells of the run's data and origin."""

from __future__ import annotations

from pathlib import Path

from data_shards.dataset import Dataset
from monitoring.runs import create_run_folder
from tests.trainer.trained_run import make_run
from trainer.config import RunConfig, parse_run_file
from trainer.lineage import dataset_facts, lineage_tags


def prepared(folder: Path) -> tuple[RunConfig, Dataset]:
    out_dir = make_run(folder)
    config = parse_run_file((out_dir / "run.yaml").read_text(), "run.yaml")
    return config, Dataset.open(config.data_dir)


def test_dataset_facts_are_of_each_split_and_sum_up(tmp_path: Path) -> None:
    config, dataset = prepared(tmp_path)
    train, val = dataset_facts(config, dataset)
    assert (train["name"], train["context"]) == ("mill/train", "training")
    assert (val["name"], val["context"]) == ("mill/val", "validation")
    assert train["address"] == str(dataset.dir)
    assert train["tokens"] == dataset.tokens("train") == sum(train["tokens_by_source"].values())
    assert train["documents"] + val["documents"] == 180
    assert len(train["tokens_by_source"]) == 2
    assert train["fingerprint"] == dataset.fingerprint


def test_dataset_that_runs_share_is_called_by_its_own_folder(tmp_path: Path) -> None:
    config, dataset = prepared(tmp_path)
    shared = config.model_copy(update={"data": config.data.model_copy(update={"dir": str(dataset.dir)})})
    assert dataset_facts(shared, dataset)[0]["name"] == f"{Path(dataset.dir).name}/train"


def test_lineage_tags_name_a_manifest_that_is_there(tmp_path: Path) -> None:
    config, dataset = prepared(tmp_path)
    tags = lineage_tags(config, dataset)
    assert Path(tags.pop("dataset.manifest")).is_file()
    assert tags == {
        "dataset.fingerprint": dataset.fingerprint,
        "corpus.fingerprint": dataset.corpus_fingerprint,
        "tokenizer.fingerprint": dataset.tokenizer_fingerprint,
    }


def test_lineage_tags_tell_an_origin_and_the_id_of_a_run_that_is_there(tmp_path: Path) -> None:
    config, dataset = prepared(tmp_path)
    origin = tmp_path / "runs/first"
    create_run_folder(origin, "run-0", "first", "name: first\n")
    of_run = config.model_copy(update={"init_from": f"{origin}@20"})
    assert lineage_tags(of_run, dataset)["init_from"] == f"{origin}@20"
    assert lineage_tags(of_run, dataset)["init_from.run_id"] == "run-0"
    of_folder = config.model_copy(update={"init_from": str(tmp_path / "gpt2")})
    assert "init_from.run_id" not in lineage_tags(of_folder, dataset)
