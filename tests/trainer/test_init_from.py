"""Runs that begin with the weights of a folder or of another run."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from data_shards.loader import LoaderState, TrainLoader
from model.config import GPTConfig
from model.gpt import GPT
from model.settings import resolve
from monitoring.journal import attempt_path
from tests.end_to_end.headrace import events, steps
from tests.trainer.origins import MODEL, load, new_run, save_weights
from tests.trainer.worlds import run_jobs
from trainer.checkpoint.fragments import KINDS
from trainer.checkpoint.load import CheckpointReader
from trainer.config import load_run_file
from trainer.errors import TrainError
from trainer.init_from import check_origin
from trainer.launch import open_launch
from trainer.length import make_order
from trainer.trained import Trained, export_trained, open_trained

Case = tuple[int, int, str, str, bool]
"""World size, ZeRO stage, precision, where from (its export, or the run at a step or its newest), frozen embedding."""

CASES: dict[str, Case] = {
    "stage-0-folder": (2, 0, "fp32", "folder", False),
    "stage-1-adapters": (2, 1, "fp32", "adapted", False),
    "stage-2-frozen": (1, 2, "fp32", "source", True),
    "stage-3-older-step": (2, 3, "fp32", "source@3", False),
}
MORE_CASES: dict[str, Case] = {
    "stage-1-run": (2, 1, "fp32", "source@5", False),
    "stage-2-folder": (2, 2, "fp32", "folder", False),
    "stage-3-frozen": (2, 3, "fp32", "folder", True),
    "stage-0-bf16": (1, 0, "bf16", "source", False),
    "stage-1-bf16": (2, 1, "bf16", "folder", False),
    "stage-3-bf16": (2, 3, "bf16", "folder", False),
}
STEP_OF = {"source@3": 3}
RATE = 1e-9
LORA = {"rank": 2, "alpha": 6.0, "targets": ["*.attn.c_attn", "*.mlp.c_fc"]}
TRAIN = {"max_steps": 4, "global_batch_size": 4, "lr": RATE}
NO_SAMPLES = {"eval": {"interval": 100, "max_tokens": 1024}}


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with a run of known weights, and its export."""

    folder: Path
    saved: dict[int, dict[str, Tensor]]
    adapted: dict[str, Tensor]  # of a run with adapters
    export: Path
    config: GPTConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("origins")
    saved = save_weights(folder, "source", {3: 1, 5: 2})
    adapted = save_weights(folder, "adapted", {2: 7}, train={**TRAIN, "lora": LORA})[2]
    trained = open_trained(folder / "runs/source")
    return Place(folder, saved, adapted, export_trained(trained, folder / "export"), trained.model_config)


def test_export_of_a_run_has_its_newest_weights(place: Place) -> None:
    weights = dict(open_trained(place.folder / "runs/source").parameters())
    assert weights.keys() == place.saved[5].keys()
    assert all(torch.equal(weights[name], place.saved[5][name]) for name in weights)


@pytest.mark.parametrize("origin", ["export", "source", "source@3", "runs/source@3", "{folder}/runs/source"])
def test_run_without_a_model_section_takes_the_origins(place: Place, origin: str) -> None:
    file = new_run(place.folder, "without-model", init_from=origin.format(folder=place.folder), model={"dropout": 0.2})
    config, dataset = load(file)
    shape = resolve(config.model, dataset.vocab_size)
    assert shape == dataclasses.replace(place.config, dropout=0.2)
    assert config.init_from is not None and Path(config.init_from).is_absolute()
    check_origin(config.init_from, shape, dataset)


def test_run_with_another_shape_is_refused_by_the_names_of_the_fields(place: Place) -> None:
    changes: dict[str, Any] = {"n_layer": 3, "mlp_dim": 48, "max_seq_len": 64}
    for origin in ("export", "source"):
        config, dataset = load(new_run(place.folder, "other", init_from=origin, model={**MODEL, **changes}))
        with pytest.raises(TrainError, match=r"n_layer is 3, there 2; mlp_dim is 48, there 40\. Leave") as caught:
            open_launch(config, dataset, False)
        assert "max_seq_len" not in str(caught.value)  # rotary positions have no rows


def test_positions_that_were_not_learned_are_refused_and_fewer_are_taken(place: Place) -> None:
    learned = {"preset": "gpt2-tiny", "n_layer": 1, "n_head": 2, "n_embd": 16, "max_seq_len": 32}
    save_weights(place.folder, "learned", {1: 4}, model=learned)
    for length, said in ((64, "max_seq_len is 64, and only 32 positions"), (16, None)):
        file = new_run(place.folder, f"of-{length}", init_from="learned", model={**learned, "max_seq_len": length})
        config, dataset = load(file)
        if said is None:
            open_launch(config, dataset, False)
            continue
        with pytest.raises(TrainError, match=said):
            open_launch(config, dataset, False)


def test_another_vocabulary_is_refused_with_a_token_that_differs(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.export, tmp_path / "export")
    tokenizer = tmp_path / "export/tokenizer.json"
    text = tokenizer.read_text()
    first, second = (Tokenizer.from_str(text).id_to_token(id) for id in (10, 11))
    tokenizer.write_text(
        text.replace(f'"{first}":10', f'"{first}":-').replace(f'"{second}":11', f'"{second}":10').replace(":-", ":11")
    )
    file = new_run(place.folder, "words", init_from=str(tmp_path / "export"))
    config, dataset = load(file)
    with pytest.raises(TrainError, match=r"2 of 300 tokens differ: '.*' is token 10 of the dataset and 11 there"):
        open_launch(config, dataset, False)
    tokenizer.unlink()
    with pytest.raises(TrainError, match=r"must have the tokenizer .* Put its tokenizer\.json there"):
        open_launch(config, dataset, False)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("nowhere", r"must be a folder with config\.json .* or with run\.yaml"),
        ("export@3", r"only a run has steps"),
        ("source@4", r"a checkpoint of step 4, there are of \[3, 5\]"),
        ("s3://bucket/model", "which an object store cannot serve. Copy the folder to one that all nodes see"),
    ],
)
def test_an_origin_that_is_not_there_is_refused(place: Place, origin: str, said: str) -> None:
    file = new_run(place.folder, "lost", init_from=origin)
    with pytest.raises(TrainError, match=f"(?s)init_from: .*{said}|{said}"):
        config, dataset = load(file)
        open_launch(config, dataset, False)


def sorter_data(place: Place, classes: tuple[str, ...]) -> dict[str, Any]:
    """A dataset of labelled texts with the origin's tokenizer."""
    records = [{"text": f"mill {number}", "label": "abc"[number % 3]} for number in range(300)]
    kept = [record for record in records if record["label"] in classes]
    (place.folder / "mails.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (place.folder / "two.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    path = "mails.jsonl" if len(classes) == 3 else "two.jsonl"
    return {
        "sources": [{"path": path, "task": {"text": "text", "label": "label"}}],
        "dir": str(place.folder / f"data-{'-'.join(classes)}"),
        "tokenizer": str(place.export / "tokenizer.json"),
        "classes": list(classes),
        "val_fraction": 0.3,
    }


# The classes of runs that start from one with classes a, b and c; whether its head is theirs.
SORTERS = {
    "same-classes": (("a", "b", "c"), True),
    "other-order": (("a", "c", "b"), False),
    "fewer-classes": (("a", "b"), False),
}


def _sorter_job(place: Place, name: str) -> dict[str, Any]:
    if not (place.folder / "runs/sorter").exists():
        save_weights(place.folder, "sorter", {2: 9}, data=sorter_data(place, ("a", "b", "c")), **NO_SAMPLES)
    file = new_run(
        place.folder, name, init_from="sorter", train=TRAIN, data=sorter_data(place, SORTERS[name][0]), **NO_SAMPLES
    )
    config, dataset = load(file)
    spec = open_launch(config, dataset, False).run_spec({})
    return {"world_size": 1, "frozen": False, "spec": _at_attempt(spec, 1)}


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", ["same-classes", "other-order"])
def test_head_of_a_classifier_goes_along_with_the_same_classes_alone(place: Place, begun: Path, name: str) -> None:
    assert_sorted(begun, name)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(150)
def test_head_of_a_classifier_of_fewer_classes_starts_anew(place: Place, all_begun: Path) -> None:
    assert_sorted(all_begun, "fewer-classes")


def assert_sorted(runs: Path, name: str) -> None:
    """All weights but the head's are the origin's, and these where the classes are."""
    found, origin = (dict(open_trained(runs / run).parameters()) for run in (name, "sorter"))
    assert found.keys() == origin.keys()
    same = {key for key, value in origin.items() if torch.allclose(found[key][:2], value[:2], rtol=0, atol=1e-7)}
    assert found.keys() - same == (set() if SORTERS[name][1] else {"score.weight"})
    assert found["score.weight"].shape[0] == len(SORTERS[name][0])


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("other-order", "there is of classes a, b, c and here is of classes a, c, b: it starts anew"),
        ("text", "there is of classes a, b, c and here is of tokens: it starts anew"),
    ],
)
def test_head_that_starts_anew_is_told_before_the_start(
    place: Place, begun: Path, run: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"data": sorter_data(place, ("a", "c", "b")), **NO_SAMPLES} if run == "other-order" else {}
    config, dataset = load(new_run(place.folder, f"told-{run}", init_from="sorter", **changes))
    with caplog.at_level(logging.WARNING):
        open_launch(config, dataset, False)
    assert said in caplog.text
    caplog.clear()
    same = new_run(
        place.folder, "told-same", init_from="sorter", data=sorter_data(place, ("a", "b", "c")), **NO_SAMPLES
    )
    open_launch(*load(same), False)
    assert "anew" not in caplog.text


def test_batch_and_rate_that_are_left_out_are_not_the_origins(place: Place) -> None:
    file = new_run(place.folder, "no-rate", init_from="export", model={"dropout": 0.0}, train={"max_steps": 2})
    with pytest.raises(TrainError, match=r"train\.global_batch_size: this field is needed.*\n.*train\.lr"):
        load_run_file(file)


@pytest.fixture(scope="module")
def begun(place: Place) -> Path:
    """The first cases, and one run that goes on without its origin."""
    gone = shutil.copytree(place.export, place.folder / "gone")
    config, dataset = load(new_run(place.folder, "resumed", init_from=str(gone), train__lr=RATE))
    spec = open_launch(config, dataset, False).run_spec({})
    resumed = [
        {"world_size": 1, "frozen": False, "spec": _at_attempt(spec, 1), "remove": str(gone)},
        {"world_size": 2, "frozen": False, "spec": _at_attempt(spec, 2)},
    ]
    return _begin(place, CASES, resumed + [_sorter_job(place, name) for name in ("same-classes", "other-order")])


@pytest.fixture(scope="module")
def all_begun(place: Place) -> Path:
    """The other cases."""
    return _begin(place, MORE_CASES, [_sorter_job(place, "fewer-classes")])


def _begin(place: Place, cases: dict[str, Case], more_jobs: list[dict[str, Any]]) -> Path:
    """Begin each case and make one step at a rate that changes nothing; the folder of their runs."""
    jobs = []
    for name, (world_size, stage, precision, origin, frozen) in cases.items():
        train = {**TRAIN, "zero": {"stage": stage}, "precision": precision}
        where = str(place.export) if origin == "folder" else origin
        config, dataset = load(new_run(place.folder, name, init_from=where, train=train))
        spec = open_launch(config, dataset, False).run_spec({})
        jobs.append({"world_size": world_size, "frozen": frozen, "spec": _at_attempt(spec, 1)})
    folder = place.folder / f"jobs-of-{next(iter(cases))}"
    folder.mkdir()
    run_jobs("tests.trainer.origin_world", folder, jobs + more_jobs)
    return place.folder / "runs"


def _at_attempt(spec: dict[str, Any], attempt: int) -> dict[str, Any]:
    journal = str(attempt_path(Path(spec["config"]["out_dir"]), attempt))
    return {**spec, "attempt": attempt, "journal_path": journal}


def wanted(place: Place, origin: str) -> dict[str, Tensor]:
    """The origin's weights, with nothing in the rows that pad the vocabulary, and adapters merged."""
    weights = merged(place.adapted) if origin == "adapted" else dict(place.saved[STEP_OF.get(origin, 5)])
    weights["wte.weight"] = weights["wte.weight"].clone()
    weights["wte.weight"][place.config.real_vocab_size :] = 0
    return weights


def merged(adapted: dict[str, Tensor]) -> dict[str, Tensor]:
    """W + (alpha / rank) B A, spelt out."""
    weights = {name: value for name, value in adapted.items() if ".adapter." not in name}
    for name in adapted:
        if name.endswith(".adapter.a"):
            layer = name.removesuffix(".adapter.a")
            b, a = adapted[f"{layer}.adapter.b"], adapted[name]
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + 3.0 * (b @ a)
    return weights


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", CASES)
def test_run_begins_with_the_origins_weights_and_a_fresh_optimizer(place: Place, begun: Path, name: str) -> None:
    assert_begun(place, begun / name, CASES[name])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", MORE_CASES)
def test_run_at_other_stages_and_in_bf16_begins_so_too(place: Place, all_begun: Path, name: str) -> None:
    assert_begun(place, all_begun / name, MORE_CASES[name])


def assert_begun(place: Place, run: Path, case: Case) -> None:
    _, _, precision, origin, frozen = case
    weights = wanted(place, origin)
    trained = open_trained(run)
    manifest = trained.choice.manifest
    assert trained.step == 1
    assert set(manifest.frozen) == ({"wte.weight"} if frozen else set())
    with CheckpointReader(trained.choice.address, manifest) as reader:
        for name, value in weights.items():
            is_kept_in_bf16 = name in manifest.frozen and precision == "bf16"
            torch.testing.assert_close(
                reader.full(name), value, rtol=4e-3 if is_kept_in_bf16 else 0, atol=1e-8, msg=name
            )
            if name not in manifest.frozen:
                assert reader.step(name) == 1
                moment = torch.empty(value.numel())
                reader.read_into(moment, name, KINDS[1], 0)
                assert moment.abs().max() < 0.5  # the origin's are all 1, and 0.9 of it would be left
    model = GPT(place.config)
    model.load_state_dict(weights)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    first = steps(run)[0]["loss"]
    assert first == pytest.approx(loss_of_first_batch(model, run), rel=2e-2 if precision == "bf16" else 1e-5)
    assert events(run, "start")[0]["resumed_step"] == 0
    assert_export_has_the_logits_of(trained, run / "model")


@torch.no_grad()
def assert_export_has_the_logits_of(trained: Trained, to: Path) -> None:
    """What `transformers` makes of the export of a run of any stage."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export_trained(trained, to)).eval()
    ids = torch.randint(300, (2, 30), generator=torch.Generator().manual_seed(3))
    logits = theirs(ids).logits
    assert logits.abs().mean() > 0.05
    torch.testing.assert_close(trained.model()(ids)[..., :300], logits, rtol=0, atol=1e-4)


@torch.no_grad()
def loss_of_first_batch(model: GPT, run: Path) -> float:
    config, dataset = load(run.parents[1] / f"{run.name}.yaml")
    loader = TrainLoader(dataset, make_order(config, dataset), seq_len=config.seq_len, rank=0, world=1, micro_batch=1)
    tokens = torch.from_numpy(loader.read(LoaderState(), config.train.global_batch_size).tokens)
    return float(model.eval()(tokens[:, :-1], tokens[:, 1:])) / tokens[:, 1:].numel()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_run_goes_on_from_its_own_checkpoint_when_the_origin_is_gone(place: Place, begun: Path) -> None:
    assert not (place.folder / "gone").exists()
    first, second = events(begun / "resumed", "start")
    assert first["restored_from"] == str(place.folder / "gone")
    assert (second["resumed_step"], second["restored_from"]) == (1, str(begun / "resumed/checkpoints/step-00000001"))
    config = load_run_file(place.folder / "resumed.yaml")
    assert config.init_from == str(place.folder / "gone")
