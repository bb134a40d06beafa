from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT
from model.huggingface import export, from_huggingface, load_model, to_huggingface
from tests.model.shapes import random_tokens

TEXT = "The headrace feeds the wheel. 水渠推动水车。\n\ndef wheel(): return 'water'  # 42\n" * 3
END_OF_TEXT = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 300 tokens, as data_shards trains it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


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
    export(model.state_dict(), CONFIG, tokenizer_path, tmp_path / "export", eot_id=0)
    return tmp_path / "export"


def assert_same_logits(ours: GPT, theirs: Any, length: int = 40) -> None:
    tokens = random_tokens(2, length)
    with torch.no_grad():
        wanted: Tensor = theirs.eval()(tokens).logits
        found = ours.eval()(tokens)[..., : ours.config.real_vocab_size]
    assert wanted.abs().mean() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_export_is_loaded_by_transformers_with_equal_logits_and_ids(
    model: GPT, folder: Path, tokenizer_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == 0
    assert_same_logits(model, theirs)

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == Tokenizer.from_file(str(tokenizer_path)).encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT
    assert (tokenizer.eos_token, tokenizer.eos_token_id, len(tokenizer)) == (END_OF_TEXT, 0, 300)


def test_load_model_of_what_transformers_saved_gives_equal_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=130,
            n_positions=48,
            n_embd=24,
            n_layer=2,
            n_head=3,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours, config = load_model(tmp_path)
    assert (config.vocab_size, config.real_vocab_size, config.max_seq_len, config.dropout) == (192, 130, 48, 0.1)
    assert_same_logits(ours, theirs)


def test_our_init_in_transformers_trains_alike(tokenizer_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = GPT(CONFIG).eval()
    tensors, config_json = to_huggingface(ours.state_dict(), CONFIG, 0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config_json)).eval()
    theirs.load_state_dict(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    tokens = random_tokens(2, 30)
    (ours(tokens[:, :-1], tokens[:, 1:]) / 58).backward()
    theirs(tokens, labels=tokens).loss.backward()
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    found, _ = to_huggingface(gradients, CONFIG, 0)
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
    export(model.state_dict(), CONFIG, tokenizer_path, folder, eot_id=0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_load_model_of_bfloat16_weights_gives_float32(model: GPT, tokenizer_path: Path, tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    export(half, CONFIG, tokenizer_path, tmp_path, eot_id=0)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    state_dict, _ = from_huggingface(tmp_path)
    assert {tensor.dtype for tensor in state_dict.values()} == {torch.float32}
    assert torch.equal(state_dict["ln_f.bias"], half["ln_f.bias"].float())


def test_from_huggingface_reads_the_names_of_openais_files(model: GPT, folder: Path) -> None:
    wanted, _ = from_huggingface(folder)
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(folder / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(tensors, folder / "model.safetensors")
    found, _ = from_huggingface(folder)
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
        (_change_config(model_type="llama"), "model_type is 'llama'"),
        (_change_config(activation_function="relu"), "activation_function is 'relu'"),
        (_change_config(tie_word_embeddings=False), "tie_word_embeddings is False"),
        (_change_config(n_inner=77), "n_inner is 77"),
        (_change_config(n_layer=None), "n_layer is None"),
        (_change_config(attn_pdrop=0.3), "attn_pdrop"),
        (_change_config(n_layer=2), "h.2.attn.c_attn.bias has shape"),
        (_change_config(n_embd=64), "has shape"),
        (_change_weights(lambda tensors: tensors.pop("transformer.ln_f.bias")), "ln_f.bias has shape none"),
        (_change_weights(lambda tensors: tensors.pop("transformer.wte.weight")), "wte.weight has shape none"),
        (_change_weights(lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1})), "lm_head.weight"),
    ],
)
def test_from_huggingface_of_another_model_or_a_torn_one_is_refused(
    folder: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(folder)
    with pytest.raises(ModelError, match=said):
        from_huggingface(folder)


def test_export_with_the_tokenizer_of_another_model_is_refused(
    model: GPT, tokenizer_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="300 tokens, the model 300 with end-of-text 300"):
        export(model.state_dict(), CONFIG, tokenizer_path, tmp_path / "out", eot_id=300)
    with pytest.raises(ModelError, match="is no file"):
        export(model.state_dict(), CONFIG, tmp_path / "tokenizer.json", tmp_path / "out", eot_id=0)
    assert not (tmp_path / "out").exists()


def test_export_where_nothing_can_be_written_is_refused(model: GPT, tokenizer_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot be written to .*/file/out"):
        export(model.state_dict(), CONFIG, tokenizer_path, tmp_path / "file" / "out", eot_id=0)
