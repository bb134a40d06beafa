"""An exported model in MLflow: logged once, and run by a process that knows nothing of Headrace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import GPTConfig
from model.generate import generate
from model.gpt import GPT
from model.huggingface_export import export
from monitoring.forward import import_journal
from monitoring.mlflow_store import MlflowClient
from monitoring.model_package import log_model
from monitoring.translate import ExportedModel
from tests.model.byte_tokenizer import byte_tokenizer
from tests.monitoring.journals import end, model_event, start, step, write_journal

pytestmark = [pytest.mark.slow]

SHAPE = GPTConfig(vocab_size=320, real_vocab_size=300, n_layer=2, n_head=2, n_embd=32, max_seq_len=64)

# The five packages cannot be imported here, as on a machine without Headrace.
LOAD = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cluster", "trainer", "data_shards", "model", "monitoring"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
loaded = mlflow.pyfunc.load_model(sys.argv[2])
texts, params = json.loads(sys.argv[3]), json.loads(sys.argv[4])
params = {"params": params} if params else {}
answers = [list(loaded.predict(given, **params)) for given in (texts, pandas.DataFrame({"prompt": texts}))]
print(json.dumps(answers))
"""


def exported(folder: Path, classes: tuple[str, ...] = ()) -> GPT:
    """A model of random weights in folder/model, with a tokenizer whose id 0 ends texts."""
    torch.manual_seed(3)
    model = GPT(GPTConfig(**{**vars(SHAPE), "n_classes": len(classes) or None})).eval()
    with torch.no_grad():
        model.wte.weight.mul_(4.0)
    tokenizer = byte_tokenizer(folder / "tokenizer.json")
    export(model.named_parameters(), model.config, tokenizer, folder / "model", 0, classes=classes)
    return model


def predictions(uri: str, model: str, texts: list[str], params: dict[str, Any], cwd: Path) -> list[list[str]]:
    """What a fresh process gets for a list and for a table of the texts."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, uri, model, json.dumps(texts), json.dumps(params)],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answers: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def import_run(out_dir: Path) -> tuple[str, str]:
    """Address of the store, and the run's id in it."""
    uri = f"sqlite:///{out_dir.parent / 'mlflow.db'}"
    run_id = import_journal(out_dir, uri, "headrace").mlflow_run_id
    assert run_id is not None
    return uri, run_id


def test_logged_language_model_continues_prompts_as_ours_does_in_a_process_without_headrace(out_dir: Path) -> None:
    from data_shards.tokenizer import load_tokenizer

    model = exported(out_dir)
    write_journal(out_dir, start(), step(1), step(2), end(2), model_event(out_dir, 2))
    uri, run_id = import_run(out_dir)
    prompts = ["the wheel", "水车"]
    answers = predictions(uri, f"runs:/{run_id}/model", prompts, {"max_new_tokens": 8}, out_dir)
    tokenizer = load_tokenizer(out_dir / "tokenizer.json")
    ours = []
    for ids in tokenizer.encode(prompts):
        ours.append(tokenizer.decode(generate(model, [int(i) for i in ids], 8, temperature=0.0, seed=0, eot_id=0)))
    assert answers == [ours, ours]
    assert all(ours)


def test_loader_of_a_classifier_labels_texts_and_pairs_as_ours_does(tmp_path: Path) -> None:
    import pandas

    from data_shards.tokenizer import load_tokenizer
    from monitoring.model_loader import Labels, _load_pyfunc

    classes = ("ham", "spam", "垃圾")
    model = exported(tmp_path, classes)
    texts = ["the wheel", "水车", "def water", "42", "feeds", "。"]
    encoded = [ids.tolist() for ids in load_tokenizer(tmp_path / "tokenizer.json").encode(texts)]

    def ours(ids: list[int]) -> str:
        with torch.no_grad():
            return classes[int(model(torch.tensor([ids[-64:]]), last_only=True)[0, -1].argmax())]

    loaded = _load_pyfunc(str(tmp_path / "model"))
    assert isinstance(loaded, Labels)
    assert loaded.predict(texts) == [ours(ids) for ids in encoded]
    table = pandas.DataFrame({"text": texts, "pair": texts[::-1]})
    pairs = [[*first, 0, *second] for first, second in zip(encoded, encoded[::-1], strict=True)]
    assert loaded.predict(table) == [ours(ids) for ids in pairs]
    assert loaded.predict("wheel " * 200) == [ours(encoded_long(tmp_path))]
    assert len(set(loaded.predict(texts))) > 1


def encoded_long(folder: Path) -> list[int]:
    from data_shards.tokenizer import load_tokenizer

    [ids] = load_tokenizer(folder / "tokenizer.json").encode(["wheel " * 200])
    return list(map(int, ids))


def test_model_sent_again_after_a_failure_half_way_is_logged_once(
    out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(out_dir)
    write_journal(out_dir, start(), end(2))
    uri, run_id = import_run(out_dir)
    client, asked = MlflowClient(tracking_uri=uri), ExportedModel(str(out_dir / "model"), "step-2", 2, ("prompt",))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_outputs", lambda *given: (_ for _ in ()).throw(OSError("away")))
        with pytest.raises(OSError, match="away"):
            log_model(client, run_id, asked, nullcontext)
    assert [str(model.status) for model in models_of(client, run_id)] == ["PENDING"]
    log_model(client, run_id, asked, nullcontext)
    log_model(client, run_id, asked, nullcontext)
    [logged] = models_of(client, run_id)
    assert (str(logged.status), logged.tags["headrace.checkpoint"]) == ("READY", "step-2")
    files = {file.path for file in client.list_logged_model_artifacts(logged.model_id, "data")}
    assert {"data/config.json", "data/model.safetensors", "data/tokenizer.json"} <= files
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"


def models_of(client: Any, run_id: str) -> list[Any]:
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))


def test_model_whose_folder_is_gone_is_told_and_left_out(out_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_journal(out_dir, start(), end(2), model_event(out_dir, 2))
    uri, run_id = import_run(out_dir)
    assert "no longer there" in caplog.text
    assert models_of(MlflowClient(tracking_uri=uri), run_id) == []
