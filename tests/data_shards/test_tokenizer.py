import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data_shards.errors import DataError
from data_shards.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    parse_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)

TEXTS = [f"the mill race {number} turns the wheel, 三国演义 naïve" for number in range(50)]
TRAINED = train_tokenizer(TEXTS, 300)
TOKENIZER = parse_tokenizer(TRAINED, Path("trained"))


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(TRAINED), **changes}).encode()


def test_train_tokenizer_gives_the_vocabulary_asked_for() -> None:
    assert (TOKENIZER.vocab_size, TOKENIZER.eot_id) == (300, 0)
    assert TOKENIZER.fingerprint == tokenizer_fingerprint(json.loads(TRAINED))


def test_train_tokenizer_twice_gives_the_same_bytes() -> None:
    assert train_tokenizer(iter(TEXTS), 300) == TRAINED


def test_train_tokenizer_of_little_text_gives_fewer_tokens() -> None:
    assert parse_tokenizer(train_tokenizer(["ab ab"], 1000), Path("t")).vocab_size < 270


@given(st.lists(st.text(max_size=50), max_size=5))
def test_encode_any_text_decodes_to_itself(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    encoded = TOKENIZER.encode(texts)
    assert [TOKENIZER.decode(ids) for ids in encoded] == texts
    assert all(ids.dtype == np.uint32 for ids in encoded)


@given(st.lists(st.text(max_size=50), max_size=5))
def test_encode_flat_gives_the_tokens_of_encode(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    ids, offsets = TOKENIZER.encode_flat(texts)
    assert offsets[0] == 0
    parts = [ids[start:end].tolist() for start, end in pairwise(offsets)]
    assert parts == [own.tolist() for own in TOKENIZER.encode(texts)]


@given(st.text(max_size=50))
def test_token_bytes_add_up_to_those_of_the_text(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert TOKENIZER.token_bytes[TOKENIZER.encode([text])[0]].sum() == len(text.encode())


def test_token_bytes_of_added_tokens_and_the_end_mark() -> None:
    backend = Tokenizer.from_str(TRAINED.decode())
    backend.add_tokens(["三国"])
    tokenizer = parse_tokenizer(backend.to_str().encode(), Path("t"))
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,) == (301,)
    assert (tokenizer.token_bytes[300], tokenizer.token_bytes[tokenizer.eot_id]) == (6, 0)


def test_borders_of_a_trained_tokenizer_hold() -> None:
    assert TOKENIZER.borders_hold


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b", f" {END_OF_TEXT}\n{END_OF_TEXT}"])
def test_encode_end_mark_within_text_is_plain_text(text: str) -> None:
    (ids,) = TOKENIZER.encode([text])
    assert TOKENIZER.eot_id not in ids
    assert TOKENIZER.decode(ids) == text


def test_encode_end_mark_that_the_file_does_not_call_special_is_plain_text() -> None:
    tokens = [{**token, "special": False} for token in json.loads(TRAINED)["added_tokens"]]
    tokenizer = parse_tokenizer(changed(added_tokens=tokens), Path("t"))
    (ids,) = tokenizer.encode([END_OF_TEXT])
    assert tokenizer.eot_id not in ids


def test_decode_end_mark_shows() -> None:
    assert TOKENIZER.decode(np.array([0, *TOKENIZER.encode(["x"])[0]])) == f"{END_OF_TEXT}x"


def test_encode_ignores_truncation_and_templates_of_the_file() -> None:
    backend = Tokenizer.from_str(TRAINED.decode())
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    tokenizer = parse_tokenizer(backend.to_str().encode(), Path("t"))
    assert tokenizer.decode(tokenizer.encode([TEXTS[0]])[0]) == TEXTS[0]


def test_encode_with_dropout_in_the_file_is_the_same_each_time() -> None:
    model = {**json.loads(TRAINED)["model"], "dropout": 0.9}
    tokenizer = parse_tokenizer(changed(model=model), Path("t"))
    assert tokenizer.encode([TEXTS[0]])[0].tolist() == TOKENIZER.encode([TEXTS[0]])[0].tolist()


def test_load_tokenizer_file_and_folder_are_alike(tmp_path: Path) -> None:
    save_tokenizer(TRAINED, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).fingerprint == load_tokenizer(tmp_path / "tokenizer.json").fingerprint
    assert (tmp_path / "tokenizer.json").read_bytes() == TRAINED


@pytest.mark.parametrize(("vocabulary", "merges"), [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_load_tokenizer_vocabulary_files_give_the_same_tokens(tmp_path: Path, vocabulary: str, merges: str) -> None:
    model = json.loads(TRAINED)["model"]
    pairs = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / vocabulary).write_text(json.dumps(model["vocab"]))
    (tmp_path / merges).write_text(f"#version: 0.2\n{pairs}\n")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (300, 0)
    for ours, theirs in zip(
        tokenizer.encode([*TEXTS, END_OF_TEXT]), TOKENIZER.encode([*TEXTS, END_OF_TEXT]), strict=True
    ):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("files", [["tokenizer.json"], ["encoder.json", "vocab.bpe"]])
def test_load_tokenizer_at_an_address_is_that_of_a_folder(files: list[str]) -> None:
    model = json.loads(TRAINED)["model"]
    contents = {
        "tokenizer.json": TRAINED.decode(),
        "encoder.json": json.dumps(model["vocab"]),
        "vocab.bpe": "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n",
    }
    folder = fsspec.filesystem("memory")
    for name in files:
        folder.pipe(f"/tokenizers/{len(files)}/{name}", contents[name].encode())
    tokenizer = load_tokenizer(f"memory://tokenizers/{len(files)}/")
    assert tokenizer.encode(TEXTS[:1])[0].tolist() == TOKENIZER.encode(TEXTS[:1])[0].tolist()
    with pytest.raises(DataError, match=r"data\.tokenizer: memory://tokenizers/0 is no tokenizer.json"):
        load_tokenizer("memory://tokenizers/0")


def test_tokenizer_fingerprint_ignores_layout_of_the_file() -> None:
    pretty = json.dumps(json.loads(TRAINED), indent=4, sort_keys=True).encode()
    assert pretty != TRAINED
    assert parse_tokenizer(pretty, Path("t")).fingerprint == TOKENIZER.fingerprint
    assert len(bytes.fromhex(TOKENIZER.fingerprint)) == hashlib.sha256().digest_size


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "t is not a tokenizer.json"),
        (b"[]", "t is not a tokenizer.json"),
        (b'{"model": {"type": "none"}}', "t is not a tokenizer.json"),
        (changed(normalizer={"type": "Lowercase"}), r"t changes text: '  Text, .* comes back as '  text"),
        (changed(decoder=None), "t changes text"),
        (
            changed(pre_tokenizer={**json.loads(TRAINED)["pre_tokenizer"], "add_prefix_space": True}),
            "t changes text: 'x'",
        ),
    ],
)
def test_parse_tokenizer_unusable_file_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.tokenizer: {message}"):
        parse_tokenizer(data, Path("t"))


def test_parse_tokenizer_without_end_mark_is_refused() -> None:
    data = TRAINED.decode().replace(END_OF_TEXT, "<|end|>").encode()
    with pytest.raises(DataError, match=r"t has no token <\|endoftext\|>, which ends documents"):
        parse_tokenizer(data, Path("t"))


def test_load_tokenizer_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a: cannot be read \(File name too long\)"):
        load_tokenizer(tmp_path / ("a" * 300))


def test_load_tokenizer_path_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.tokenizer: {tmp_path} is no tokenizer.json and no folder with one"):
        load_tokenizer(tmp_path)
