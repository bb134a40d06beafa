from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import dump_run_file, load_run_file, parse_run_file
from trainer.errors import TrainError

SMALLEST = """\
data: {sources: [corpus/*.txt], tokenizer: {train: bpe, vocab_size: 8192}}
model: {preset: gpt2-tiny}
train: {max_tokens: 400_000, global_batch_size: 8, lr: 1.0e-3}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "shakespeare.yaml"
    path.write_text(text)
    return path


def test_run_file_smallest_has_its_defaults_and_absolute_paths(tmp_path: Path) -> None:
    config = load_run_file(write(tmp_path, SMALLEST))
    assert config.name == "shakespeare"
    assert config.out_dir == str(tmp_path / "runs/shakespeare")
    assert config.data_dir == tmp_path / "runs/shakespeare/data"
    assert config.data.sources[0].path == str(tmp_path / "corpus/*.txt")
    assert config.seq_len == 256
    assert config.tokens_per_step == 2048


def test_run_file_data_at_an_address_stays_one(tmp_path: Path) -> None:
    config = load_run_file(write(tmp_path, SMALLEST), ["data.dir=s3://bucket/ds", "data.cache_dir=copies"])
    assert config.data_dir == "s3://bucket/ds"
    assert config.data.cache_dir == str(tmp_path / "copies")
    assert load_run_file(write(tmp_path, SMALLEST), ["data.dir=ds"]).data_dir == tmp_path / "ds"


def test_run_file_dumped_and_parsed_is_the_same(tmp_path: Path) -> None:
    config = load_run_file(write(tmp_path, SMALLEST))
    assert parse_run_file(dump_run_file(config), "run.yaml") == config


def test_override_reaches_into_sections_and_makes_missing_ones(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    config = load_run_file(path, ["train.zero.stage=3", "train.lr=2.0e-4", "seed=5", "checkpoint.interval=10m"])
    assert config.train.zero.stage == 3
    assert config.train.lr == 2e-4
    assert config.seed == 5
    assert config.checkpoint.interval_seconds == 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("lr: 1.0e-3", "lrate: 1.0e-3"),
            r"train\.lr: this field is needed.*\n.*lrate: unknown field\. Did you mean 'lora' or 'lr'",
        ),
        (("lr: 1.0e-3", "lr: 1.0e-3, grad_clp: 2"), r"train\.grad_clp: unknown field\. Did you mean 'grad_clip'"),
        (("global_batch_size: 8", "global_batch_size: 0"), r"train\.global_batch_size: .*greater than 0; found 0"),
        (("{preset: gpt2-tiny}", "{preset: gpt2-tiny, n_head: 3}"), r"n_embd is 256.*n_head = 3.*255 or 258"),
        (("max_tokens: 400_000, ", ""), r"exactly one of max_tokens, max_steps, epochs"),
        (("model: {", "model: {{"), r"shakespeare\.yaml:\d+:\d+: must be valid YAML"),
        (("\ntrain:", "\nmodel: {preset: gpt2}\ntrain:"), r"shakespeare\.yaml:3:1: .*'model' stands twice"),
    ],
)
def test_run_file_with_a_mistake_is_refused_naming_field_rule_and_value(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match=message):
        load_run_file(write(tmp_path, SMALLEST.replace(*change)))


def test_run_file_missing_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"absent\.yaml: cannot read the run file: No such file"):
        load_run_file(tmp_path / "absent.yaml")


def test_run_file_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(TrainError, match="must be UTF-8 text, but byte 9"):
        load_run_file(path)


@pytest.mark.parametrize(
    ("override", "message"), [("train.lr", "section.field=value"), ("seed.a=1", "'seed' is a value")]
)
def test_override_malformed_is_refused(override: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + "seed: 3\n")
    with pytest.raises(TrainError, match=message):
        load_run_file(path, [override])


SECRET = "xyzzy"


@pytest.mark.parametrize(
    ("override", "field", "shown"),
    [
        ("monitoring.tracking_uri=http://me:xyzzy@host", "monitoring.tracking_uri", "http://me:...@host"),
        ("monitoring.tracking_uri=http://me:xy/zzy@host", "monitoring.tracking_uri", "http://me:...@host"),
        ("data.dir=sftp://me:xyzzy@host/d", "data.dir", "sftp://me:...@host/d"),
        ("data.sources=[{path: 'https://h/a.txt?sig=xyzzy'}]", "data.sources.0.path", r"https://h/a.txt\?sig=..."),
        ("nowhere=https://xyzzy@host", "nowhere", "https://...@host"),
    ],
)
def test_address_with_a_secret_is_refused_without_being_shown(
    override: str, field: str, shown: str, tmp_path: Path
) -> None:
    path = write(tmp_path, SMALLEST)
    refused = rf"{field}: must hold no password.*{shown}'\. Leave it out"
    with pytest.raises(TrainError, match=refused) as caught:
        load_run_file(path, [override])
    assert "zzy" not in str(caught.value)


def test_sample_that_looks_like_an_address_is_text(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    assert load_run_file(path, ["eval.samples=['http://a:b@c']"]).eval.samples == ("http://a:b@c",)


def test_stored_run_file_with_a_secret_is_refused_without_showing_it(tmp_path: Path) -> None:
    text = dump_run_file(load_run_file(write(tmp_path, SMALLEST)))
    stored = text.replace("tracking_uri: null", f"tracking_uri: http://me:{SECRET}@host")
    with pytest.raises(TrainError, match=r"must hold no password") as caught:
        parse_run_file(stored, "run.yaml")
    assert SECRET not in str(caught.value)
