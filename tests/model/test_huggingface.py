from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT
from model.huggingface_export import export
from model.huggingface_folder import load_model
from tests.model.byte_tokenizer import byte_tokenizer
from tests.model.shapes import random_tokens


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


CONFIG = GPTConfig(vocab_size=320, real_vocab_size=300, n_layer=3, n_head=2, n_embd=32, max_seq_len=64, dropout=0.1)


@pytest.fixture(scope="module")
def model() -> GPT:
    """Every parameter is random, biases and norms too, and large enough for logits of order one."""
    torch.manual_seed(11)
    model = GPT(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def folder(model: GPT, tokenizer_path: Path, tmp_path: Path) -> Path:
    export(model.named_parameters(), CONFIG, tokenizer_path, tmp_path / "export", eot_id=0)
    return tmp_path / "export"


def test_our_init_in_transformers_trains_alike(tokenizer_path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = GPT(CONFIG).eval()
    export(ours.named_parameters(), CONFIG, tokenizer_path, tmp_path / "weights", eot_id=0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "weights").eval()
    tokens = random_tokens(2, 30)
    (ours(tokens[:, :-1], tokens[:, 1:]) / 58).backward()
    theirs(tokens, labels=tokens).loss.backward()
    gradients = [(name, p.grad) for name, p in ours.named_parameters() if p.grad is not None]
    export(gradients, CONFIG, tokenizer_path, tmp_path / "gradients", eot_id=0)
    found = load_file(tmp_path / "gradients/model.safetensors")
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    assert len(found) == 4 + 12 * CONFIG.n_layer
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-6, msg=name)


def test_export_and_load_give_the_same_bits(model: GPT, folder: Path) -> None:
    loaded, config = load_model(folder)
    assert config == CONFIG
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        wanted = model.state_dict()[name]
        assert torch.equal(tensor[:300], wanted[:300]), name
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_export_twice_writes_the_same_bytes_and_nothing_else(
    model: GPT, folder: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(files) == names
    export(model.named_parameters(), CONFIG, tokenizer_path, folder, eot_id=0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_export_over_one_in_several_files_leaves_none_of_them(model: GPT, tokenizer_path: Path, tmp_path: Path) -> None:
    export(model.named_parameters(), CONFIG, tokenizer_path, tmp_path, eot_id=0, max_file_bytes=30_000)
    files = sorted(path.name for path in tmp_path.glob("model*"))
    assert files[0] == f"model-00001-of-{len(files) - 1:05d}.safetensors"
    assert all(path.stat().st_size < 45_000 for path in tmp_path.glob("model-*"))
    export(model.named_parameters(), CONFIG, tokenizer_path, tmp_path, eot_id=0)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    loaded, _ = load_model(tmp_path)
    assert torch.equal(loaded.ln_f.weight, model.ln_f.weight)


def test_export_cut_short_leaves_what_was_there(model: GPT, folder: Path, tokenizer_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield from list(model.named_parameters())[:3]
        raise RuntimeError("the storage is gone")

    with pytest.raises(RuntimeError, match="gone"):
        export(broken(), CONFIG, tokenizer_path, folder, eot_id=0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_export_of_other_parameters_than_the_models_is_refused(
    model: GPT, tokenizer_path: Path, tmp_path: Path
) -> None:
    parameters = list(model.named_parameters())
    with pytest.raises(ModelError, match=r"'ln_f\.bias' is missing; export all 40"):
        export(parameters[:-1], CONFIG, tokenizer_path, tmp_path, eot_id=0)
    with pytest.raises(ModelError, match=r"'ln_f\.bias' is not one of the model's, or came twice"):
        export([*parameters, parameters[-1]], CONFIG, tokenizer_path, tmp_path, eot_id=0)
    assert list(tmp_path.iterdir()) == []


def test_export_in_any_order_of_parameters_is_the_same(
    model: GPT, folder: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    export(reversed(list(model.named_parameters())), CONFIG, tokenizer_path, tmp_path, eot_id=0)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_load_model_of_bfloat16_weights_gives_float32(model: GPT, tokenizer_path: Path, tmp_path: Path) -> None:
    export(model.named_parameters(), CONFIG, tokenizer_path, tmp_path, eot_id=0, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded, _ = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.ln_f.bias, model.ln_f.bias.bfloat16().float())


def test_load_model_reads_the_names_of_openais_files(model: GPT, folder: Path) -> None:
    wanted = load_model(folder)[0].state_dict()
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(folder / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(tensors, folder / "model.safetensors")
    found = load_model(folder)[0].state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def _change_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _change_weights(change_tensors: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change_tensors(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds list"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors cannot be read"),
        (_cut_weights, "model.safetensors cannot be read"),
        (_change_config(model_type="bert"), "model_type is 'bert'"),
        (_change_config(activation_function="relu"), "activation_function is 'relu'"),
        (_change_config(tie_word_embeddings=False), "lm_head.weight has shape none"),
        (_change_config(n_inner=77), "c_fc.bias has shape"),
        (_change_config(scale_attn_weights=False), "scale_attn_weights is False"),
        (_change_config(n_layer=None), "n_layer is None"),
        (_change_config(attn_pdrop=0.3), "attn_pdrop"),
        (_change_config(n_layer=2), "h.2.attn.c_attn.bias has shape"),
        (_change_config(n_embd=64), "has shape"),
        (_change_weights(lambda tensors: tensors.pop("transformer.ln_f.bias")), "ln_f.bias has shape none"),
        (_change_weights(lambda tensors: tensors.pop("transformer.wte.weight")), "wte.weight has shape none"),
        (_change_weights(lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1})), "lm_head.weight"),
    ],
)
def test_load_model_of_another_model_or_a_torn_one_is_refused(
    folder: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(folder)
    with pytest.raises(ModelError, match=said):
        load_model(folder)


def test_export_with_the_tokenizer_of_another_model_is_refused(
    model: GPT, tokenizer_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="300 tokens, the model 300 with end-of-text 300"):
        export(model.named_parameters(), CONFIG, tokenizer_path, tmp_path / "out", eot_id=300)
    with pytest.raises(ModelError, match="is no file"):
        export(model.named_parameters(), CONFIG, tmp_path / "tokenizer.json", tmp_path / "out", eot_id=0)
    assert not (tmp_path / "out").exists()


def test_export_where_nothing_can_be_written_is_refused(model: GPT, tokenizer_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot be written to .*/file/out"):
        export(model.named_parameters(), CONFIG, tokenizer_path, tmp_path / "file" / "out", eot_id=0)
