from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from tests.data_shards.loader_dataset import build_dataset
from trainer.config import RunConfig
from trainer.launch import open_launch
from trainer.length import check_repetitions

T = 8


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Ten sequences of source a, five of b."""
    return build_dataset(tmp_path, [81, 41], sources=["a", "b"])


def config(tmp_path: Path, a: dict[str, Any], b: dict[str, Any], tokens: int = 1000) -> RunConfig:
    sources = [{"path": f"/{name}.txt", "name": name, **extra} for name, extra in (("a", a), ("b", b))]
    document = {
        "name": "run",
        "out_dir": str(tmp_path / "run"),
        "data": {"sources": sources, "tokenizer": {"train": "bpe", "vocab_size": 300}},
        "model": {"preset": "gpt2-tiny", "max_seq_len": T},
        "train": {"max_tokens": tokens, "global_batch_size": 1, "lr": 1e-3},
    }
    return RunConfig.model_validate(document)


def test_check_repetitions_over_a_cap_is_refused_with_source_passes_and_cap(tmp_path: Path, dataset: Dataset) -> None:
    asked = config(tmp_path, {"weight": 1.0}, {"weight": 3.0, "max_passes": 2})
    with pytest.raises(DataError, match=r"goes through b 3\.00 times, and its max_passes is 2: train on fewer tokens"):
        check_repetitions(asked, dataset, 20 * T)  # 15 of the 20 sequences are of b, which has 5
    check_repetitions(asked, dataset, 13 * T)


def test_check_repetitions_without_weights_counts_all_sources_alike(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"goes through a 2\.00 times, and its max_passes is 1\.5"):
        check_repetitions(config(tmp_path, {"max_passes": 1.5}, {"max_passes": 2}), dataset, 30 * T)


def test_check_repetitions_past_four_passes_warns_once_with_all_sources(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_repetitions(config(tmp_path, {}, {}), dataset, 60 * T)
        assert caplog.messages == []
        check_repetitions(config(tmp_path, {}, {}), dataset, 75 * T)
    [message] = caplog.messages
    assert "goes through a 5.0 times, b 5.0 times; past 4 passes" in message
    assert "Muennighoff et al. 2023" in message


def test_open_launch_over_a_cap_leaves_no_run_behind(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="its max_passes is 4"):
        open_launch(config(tmp_path, {"max_passes": 4}, {}, tokens=15 * T * 5), dataset, accept_changes=False)
    assert not (tmp_path / "run").exists()
    launch = open_launch(config(tmp_path, {"max_passes": 4}, {}, tokens=15 * T * 4), dataset, accept_changes=False)
    assert launch.total_tokens == 15 * T * 4
    assert (tmp_path / "run/run.json").exists()
