"""The tokenizer: trained on the corpus or given; the only place that turns text into tokens and back."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_shards.errors import DataError
from data_shards.files import write_atomically

END_OF_TEXT = "<|endoftext|>"
_VOCABULARY_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# Upper and lower case, accents in both normal forms, spaces, line ends, Chinese, an emoji and the end mark as text.
_PROBE = f"  Text, naïve nai\u0308ve\t\r\n\n 三国演义 \U0001f600 {END_OF_TEXT} \x00\u2028end "


@dataclass(frozen=True)
class TextTokenizer:
    """Text to tokens and back, without loss; `<|endoftext|>` within a text is plain text."""

    backend: Tokenizer
    vocab_size: int  # the highest id and one
    eot_id: int
    fingerprint: str

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Tokens of each text, as one-dimensional uint32 arrays, without end marks."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; an end mark shows as `<|endoftext|>`."""
        return str(self.backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False))


def load_tokenizer(path: Path) -> TextTokenizer:
    """Load a tokenizer.json, a folder that holds one, or a folder with GPT-2's pair of vocabulary files.

    Raises DataError where it is none, has no <|endoftext|>, or does not give a text back as it was.
    """
    return parse_tokenizer(read_tokenizer(path), path)


def read_tokenizer(path: Path) -> bytes:
    """The tokenizer at `path` (see `load_tokenizer`) as the bytes of a tokenizer.json."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return file.read_bytes()
    for vocabulary, merges in _VOCABULARY_FILES:
        if (path / vocabulary).is_file() and (path / merges).is_file():
            return _from_vocabulary(path / vocabulary, path / merges)
    raise DataError(
        f"data.tokenizer: {path} is no tokenizer.json and no folder with one, or with vocab.json and merges.txt, or "
        "with encoder.json and vocab.bpe: correct the path, or train one with {train: bpe, vocab_size: N}"
    )


def parse_tokenizer(data: bytes, path: Path) -> TextTokenizer:
    """A tokenizer from the bytes of a tokenizer.json; `path` is for the DataError."""
    try:
        description = json.loads(data)
        backend = Tokenizer.from_str(json.dumps(_for_encoding(description)))
    except Exception as error:  # the library raises bare Exception for what it cannot read
        raise DataError(f"data.tokenizer: {path} is not a tokenizer.json ({error}): correct the path") from error
    eot_id = backend.token_to_id(END_OF_TEXT)
    if eot_id is None:
        raise DataError(
            f"data.tokenizer: {path} has no token {END_OF_TEXT}, which ends documents: add it or take another"
        )
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # special tokens within a text are split like any other text
    size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    tokenizer = TextTokenizer(backend, size, eot_id, tokenizer_fingerprint(description))
    _check_lossless(tokenizer, path)
    return tokenizer


def tokenizer_fingerprint(description: Any) -> str:
    """SHA-256, in hex, of a tokenizer.json's canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(description, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train a byte-level BPE as GPT-2's (Radford et al. 2019, section 2.2) and return its tokenizer.json.

    The same texts in the same order give the same bytes. A small corpus may give fewer tokens than `vocab_size`.
    """
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return _canonical_file(tokenizer)


def save_tokenizer(data: bytes, path: Path) -> None:
    """Write a tokenizer.json, whole or not at all."""
    write_atomically(path, data)


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _from_vocabulary(vocabulary: Path, merges: Path) -> bytes:
    try:
        model = models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # the library raises bare Exception for what it cannot read
        raise DataError(f"data.tokenizer: {vocabulary} and {merges} are no BPE vocabulary ({error})") from error
    tokenizer = _byte_level(model)
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return _canonical_file(tokenizer)


def _canonical_file(tokenizer: Tokenizer) -> bytes:
    return (tokenizer.to_str(pretty=False) + "\n").encode()


def _for_encoding(description: Any) -> Any:
    """With the end token marked as special, since only such can be kept from matching within texts; without dropout,
    which would give the same text other tokens each time."""
    tokens = [
        {**token, "special": True} if token["content"] == END_OF_TEXT else token
        for token in description.get("added_tokens", [])
    ]
    return {**description, "added_tokens": tokens, "model": {**description["model"], "dropout": None}}


def _check_lossless(tokenizer: TextTokenizer, path: Path) -> None:
    (ids,) = tokenizer.encode([_PROBE])
    decoded = tokenizer.decode(ids)
    if decoded != _PROBE or tokenizer.eot_id in ids:
        raise DataError(
            f"data.tokenizer: {path} changes text: {_PROBE!r} comes back as {decoded!r}: take a byte-level tokenizer "
            "without a normaliser"
        )
