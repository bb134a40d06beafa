import logging
import sys
from collections.abc import Sequence
from typing import Any

import fastokens
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from data_shards import encoder as module
from data_shards.encoder import PROBES, Encoder, exact_flat
from tests.data_shards.byte_level import PRE_TOKENIZERS, TEXTS, trained

TEXT = st.text(max_size=30).map(lambda text: text.encode("utf-8", "ignore").decode())


@pytest.fixture
def backend() -> Tokenizer:
    return with_plain_end_mark(trained(PRE_TOKENIZERS["gpt2"]))


def with_plain_end_mark(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_fast_encoder_gives_the_tokens_of_tokenizers(name: str) -> None:
    backend = with_plain_end_mark(trained(PRE_TOKENIZERS[name]))
    backend.add_tokens([AddedToken("   ", normalized=False), "</note>"])
    encoder = Encoder(backend)
    assert encoder.is_fast

    @settings(max_examples=100, deadline=None)
    @given(st.lists(TEXT | st.sampled_from(["a <|endoftext|>   </note>b", *PROBES, *TEXTS])))
    def check(texts: list[str]) -> None:
        ids, offsets = encoder.encode_flat(texts)
        exact_ids, exact_offsets = exact_flat(backend, texts)
        assert (ids.tolist(), offsets.tolist()) == (exact_ids.tolist(), exact_offsets.tolist())
        assert (ids.dtype, offsets.dtype) == (exact_ids.dtype, exact_offsets.dtype) == (np.uint32, np.int64)

    check()


def test_encoder_that_is_not_asked_to_be_fast_gives_the_same(backend: Tokenizer) -> None:
    exact, fast = Encoder(backend, fast=False), Encoder(backend)
    assert (exact.is_fast, fast.is_fast) == (False, True)
    assert [part.tolist() for part in exact.encode_flat(TEXTS)] == [part.tolist() for part in fast.encode_flat(TEXTS)]
    assert exact.first_difference(TEXTS) is None


def test_encoder_without_the_fast_library_says_so(
    backend: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    encoder = Encoder(backend)
    assert not encoder.is_fast
    assert encoder.encode_flat(["wheel"])[0].tolist() == exact_flat(backend, ["wheel"])[0].tolist()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("text is encoded by tokenizers, which is slow, since fastokens cannot be used")


def test_encoder_of_a_tokenizer_that_the_fast_library_refuses_says_so(caplog: pytest.LogCaptureFixture) -> None:
    backend = trained(pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), PRE_TOKENIZERS["gpt2"]]))
    assert not Encoder(backend).is_fast
    assert "fastokens cannot be used: pre-tokenizer error" in caplog.messages[0]


class _Wrong:
    """The fast library, but for a text."""

    def __init__(self, fast: Any, text: str) -> None:
        self._fast = fast
        self._text = text

    def encode_batch_flat(self, texts: Sequence[str], **options: Any) -> Any:
        ids, offsets = self._fast.encode_batch_flat(texts, **options)
        return (bytes(len(ids)) if self._text in "".join(texts) else ids), offsets


def test_encoder_that_differs_on_a_probe_is_not_used(
    backend: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = fastokens.Tokenizer

    class Library:
        @staticmethod
        def from_json_str(text: str) -> Any:
            return _Wrong(real.from_json_str(text), PROBES[3])

    monkeypatch.setattr(fastokens, "Tokenizer", Library)
    assert not Encoder(backend).is_fast
    assert "fastokens gives other tokens for" in caplog.messages[0]


def test_encoder_spot_check_finds_a_difference(backend: Tokenizer) -> None:
    encoder = Encoder(backend, spot_check_bytes=100)
    encoder._fast = _Wrong(encoder._fast, "odd one")
    encoder.encode_flat(["one", "two"])
    with pytest.raises(RuntimeError, match=r"other tokens for 'the odd one', .* HEADRACE_EXACT_ENCODER=1"):
        encoder.encode_flat(["the odd one"])


def test_encoder_spot_check_ends(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(backend, spot_check_bytes=10)
    encoder.encode_flat(["0123456789012345"])
    monkeypatch.setattr(module, "exact_flat", pytest.fail)
    assert len(encoder.encode_flat(["a", "b"])[1]) == 3


def test_encoder_first_difference_is_the_text(backend: Tokenizer) -> None:
    encoder = Encoder(backend)
    encoder._fast = _Wrong(encoder._fast, "odd")
    assert encoder.first_difference(["one"]) is None
    assert encoder.first_difference(["odd"]) == "odd"


def test_exact_flat_of_nothing_is_empty(backend: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ids, offsets = Encoder(backend).encode_flat([])
    assert (ids.tolist(), offsets.tolist()) == ([], [0])
    assert [part.tolist() for part in exact_flat(backend, [])] == [[], [0]]
    assert caplog.messages == []
