import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_shards.settings import DataSettings, SourceSettings, default_name, resolve_paths

BPE = {"train": "bpe", "vocab_size": 300}


def settings(*sources: Any, **fields: Any) -> DataSettings:
    return DataSettings.model_validate({"sources": list(sources), "tokenizer": BPE, **fields})


def test_settings_from_bare_path_take_defaults() -> None:
    (source,) = settings("corpus/*.txt").sources
    assert (source.path, source.format, source.field, source.document) == ("corpus/*.txt", "auto", None, "file")
    assert settings("a").val_fraction == 0.01
    assert settings("a").unit_bytes == 64 * 1024 * 1024
    assert settings("a").weights is None
    assert (settings("a").packing, settings("a").on_bad_shard) == ("stream", "fail")
    assert settings("a").cache_bytes == 50 * 1024**3


def test_settings_weights_of_all_sources_are_kept() -> None:
    found = settings({"path": "a.txt", "weight": 3, "name": "A"}, {"path": "b.txt", "weight": 1}).weights
    assert found == {"A": 3.0, "b.txt": 1.0}


@pytest.mark.parametrize(
    ("sources", "fields", "message"),
    [
        (["a.txt", {"path": "b.txt", "weight": 1}], {}, "all have a weight or none has; without one: a.txt"),
        (["x/a.txt", "y/a.txt"], {}, "two are called a.txt"),
        ([{"path": "a", "format": "jsonl", "document": "line"}], {}, "document: line is for text files"),
        ([{"path": "a", "format": "text", "field": "body"}], {}, "field: body is for jsonl, parquet, arrow"),
        ([{"path": "a", "format": "megatron", "field": "ids"}], {}, "field: ids is for .* but format is megatron"),
        ([{"path": "a", "format": "webdataset", "document": "line"}], {}, "document: line is for text files"),
        ([{"path": "a", "format": "tokens"}], {}, "sources: a holds ids, whose tokenizer must be known"),
        (["a"], {"val_sources": [{"path": "v", "format": "megatron"}]}, "val_sources: v holds ids, whose tokenizer"),
        (
            [{"path": "a", "format": "tokens"}],
            {"tokenizer": "t", "packing": "sentence_pairs"},
            "packing: sentence_pairs needs text, but sources has a, which holds ids",
        ),
        ([{"path": "a", "max_passes": 0}], {}, "greater than 0"),
        (["a"], {"val_sources": [{"path": "v", "max_passes": 2}]}, "v: validation sources are gone through once"),
        (["a"], {"packing": "sentences"}, "'stream', 'documents', 'sentence_pairs' or 'examples'"),
        (["a"], {"on_bad_shard": "ignore"}, "'fail' or 'skip'"),
        (["a"], {"cache_bytes": 1000}, "greater than or equal to 1048576"),
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
        ("s3://bucket/corpus/en/*.txt", "en/*.txt"),
        ("gs://bucket/zh.jsonl", "zh.jsonl"),
        ("datasets/wiki/", "wiki"),
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


def test_resolve_paths_addresses_stay_as_they_are(tmp_path: Path) -> None:
    given = settings(
        "s3://b/en/*.txt", tokenizer="gs://b/tokenizer.json", dir="s3://b/d", val_sources=["memory://v"], cache_dir="c"
    )
    found = resolve_paths(given, tmp_path)
    assert found.sources[0].path == "s3://b/en/*.txt"
    assert found.val_sources is not None
    assert found.val_sources[0].path == "memory://v"
    assert (found.tokenizer, found.dir) == ("gs://b/tokenizer.json", "s3://b/d")
    assert found.cache_dir == f"{tmp_path}/c"


def test_settings_ids_with_a_given_tokenizer_are_taken() -> None:
    given = settings({"path": "a", "format": "tokens", "field": "x.ids"}, tokenizer="t", packing="documents")
    assert (given.sources[0].field, given.packing) == ("x.ids", "documents")


def test_settings_module_imports_nothing_heavy() -> None:
    code = "import sys, data_shards.settings; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "data_shards.settings" in loaded
    assert loaded & {"numpy", "pyarrow", "tokenizers", "torch", "webdataset"} == set()


@pytest.mark.parametrize("path", ["pipe:cat /etc/hostname", "pipe:curl http://host/a.tar"])
def test_source_that_is_a_command_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"a command \(pipe:\) is never run"):
        SourceSettings.model_validate(path)
