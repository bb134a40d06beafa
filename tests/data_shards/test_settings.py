import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_shards.errors import DataError
from data_shards.settings import DataSettings, default_name, resolve_paths

BPE = {"train": "bpe", "vocab_size": 300}


def settings(*sources: Any, **fields: Any) -> DataSettings:
    return DataSettings.model_validate({"sources": list(sources), "tokenizer": BPE, **fields})


def test_settings_from_bare_path_take_defaults() -> None:
    (source,) = settings("corpus/*.txt").sources
    assert (source.path, source.format, source.field, source.document) == ("corpus/*.txt", "auto", "text", "file")
    assert settings("a").val_fraction == 0.01
    assert settings("a").unit_bytes == 64 * 1024 * 1024
    assert settings("a").weights is None


def test_settings_weights_of_all_sources_are_kept() -> None:
    found = settings({"path": "a.txt", "weight": 3, "name": "A"}, {"path": "b.txt", "weight": 1}).weights
    assert found == {"A": 3.0, "b.txt": 1.0}


@pytest.mark.parametrize(
    ("sources", "fields", "message"),
    [
        (["a.txt", {"path": "b.txt", "weight": 1}], {}, "all have a weight or none has; without one: a.txt"),
        (["x/a.txt", "y/a.txt"], {}, "two are called a.txt"),
        ([{"path": "a", "format": "jsonl", "document": "line"}], {}, "document: line is for text files"),
        ([{"path": "a", "format": "text", "field": "body"}], {}, "field: body is for jsonl and parquet"),
        (["a"], {"val_sources": [{"path": "v", "weight": 1}]}, "v: validation sources have no weight"),
        (["a"], {"tokenizer": {"train": "bpe", "vocab_size": 256}}, "greater than or equal to 257"),
        ([{"path": "a", "weight": 0}], {}, "greater than 0"),
        (["a"], {"val_fraction": 1.0}, "less than 1"),
        (["a"], {"on_bad_record": "ignore"}, "'fail' or 'skip'"),
        ([], {}, "at least 1 item"),
        (["a"], {"shards": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_wrong_value_is_refused(sources: list[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(*sources, **fields)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/en/*.txt", "en/*.txt"),
        ("/a/zh.jsonl.zst", "zh.jsonl.zst"),
        ("a/corpus/**/*.txt", "corpus/**/*.txt"),
        ("*.txt", "*.txt"),
        ("/*.txt", "*.txt"),
    ],
)
def test_default_name_of_path_ignores_where_the_corpus_lies(path: str, name: str) -> None:
    assert default_name(path) == name


def test_resolve_paths_relative_become_absolute_and_names_stay(tmp_path: Path) -> None:
    given = settings("en/*.txt", "/abs/zh.txt", dir="data", tokenizer="tok", val_sources=["val.txt"])
    found = resolve_paths(given, tmp_path)
    assert [source.path for source in found.sources] == [f"{tmp_path}/en/*.txt", "/abs/zh.txt"]
    assert [source.name for source in found.sources] == ["en/*.txt", "zh.txt"]
    assert found.val_sources is not None
    assert found.val_sources[0].path == f"{tmp_path}/val.txt"
    assert (found.dir, found.tokenizer) == (f"{tmp_path}/data", f"{tmp_path}/tok")


def test_resolved_settings_survive_a_round_trip(tmp_path: Path) -> None:
    given = settings({"path": "a.jsonl", "format": "jsonl", "field": "x.y"}, {"path": "b", "document": "line"})
    resolved = resolve_paths(given, tmp_path)
    assert DataSettings.model_validate(resolved.model_dump(mode="json")) == resolved


@pytest.mark.parametrize("field", ["sources", "tokenizer", "dir", "val_sources"])
def test_resolve_paths_address_with_scheme_is_refused(field: str) -> None:
    address: Any = ["s3://bucket/b"] if "sources" in field else "s3://bucket/b"
    given = DataSettings.model_validate({"sources": ["a"], "tokenizer": BPE, field: address})
    with pytest.raises(DataError, match=rf"data\.{field}: s3://bucket/b is not a local path"):
        resolve_paths(given, Path("/base"))


def test_settings_module_imports_nothing_heavy() -> None:
    code = "import sys, data_shards.settings; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "data_shards.settings" in loaded
    assert loaded & {"numpy", "pyarrow", "tokenizers", "torch", "webdataset"} == set()
