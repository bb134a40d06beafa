import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

from data_shards.borders import borders_hold
from tests.data_shards.byte_level import PRE_TOKENIZERS, trained


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_borders_of_known_pre_tokenizers_hold(name: str) -> None:
    assert borders_hold(trained(PRE_TOKENIZERS[name]))


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Metaspace(),
    ],
)
def test_borders_of_others_do_not(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> None:
    assert not borders_hold(trained(pre_tokenizer))


@pytest.mark.parametrize(
    ("token", "holds"),
    [
        (AddedToken("   ", normalized=False), True),
        (AddedToken("a b", normalized=False), False),
        (AddedToken("a", rstrip=True), False),
        (AddedToken("a b", special=True), True),
    ],
)
def test_added_token_over_a_border_breaks_it(token: AddedToken, holds: bool) -> None:
    tokenizer = trained(PRE_TOKENIZERS["gpt2"])
    tokenizer.add_tokens([token])
    assert borders_hold(tokenizer) == holds


def test_borders_after_a_normalizer_do_not_hold() -> None:
    tokenizer = trained(PRE_TOKENIZERS["gpt2"])
    tokenizer.normalizer = normalizers.NFC()
    assert not borders_hold(tokenizer)
