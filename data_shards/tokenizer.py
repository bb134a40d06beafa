"""The tokenizer: trained on the corpus or given; the only place that turns text into tokens and back."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_shards.borders import borders_hold
from data_shards.encoder import Encoder, Flat, exact_flat
from data_shards.errors import DataError
from data_shards.files import write_atomically
from data_shards.settings import is_remote
from data_shards.source_files import find, read_bytes, reading

END_OF_TEXT = "<|endoftext|>"
_VOCABULARY_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# Upper and lower case, accents in both normal forms, spaces, line ends, Chinese, an emoji and the end mark as text.
_PROBES = (f"  Text, naïve nai\u0308ve\t\r\n\n 三国演义 \U0001f600 {END_OF_TEXT} \x00\u2028end ", "x")


@dataclass(frozen=True)
class TextTokenizer:
    """Text to tokens and back, without loss; `<|endoftext|>` within a text is plain text."""

    backend: Tokenizer
    vocab_size: int  # the highest id and one
    eot_id: int
    fingerprint: str

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Tokens of each text, as one-dimensional uint32 arrays, without end marks."""
        ids, offsets = exact_flat(self.backend, texts)
        return np.split(ids, offsets[1:-1]) if texts else []

    def encode_flat(self, texts: Sequence[str]) -> Flat:
        """The same tokens in one array, [tokens], and the places where texts begin in it, [texts + 1]: much faster."""
        return self.encoder.encode_flat(texts)

    @cached_property
    def encoder(self) -> Encoder:
        """The fast encoder, or, with a warning, the slow one where they differ. Made when it is first asked for."""
        return Encoder(self.backend)

    @cached_property
    def borders_hold(self) -> bool:
        """Whether the tokens of a long document are those of its parts (`long_text`)."""
        return borders_hold(self.backend)

    @cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes that each id stands for, [vocab_size]; the end mark and ids without a token stand for none."""
        sizes = np.zeros(self.vocab_size, dtype=np.int64)
        added = self.backend.get_added_tokens_decoder()
        for token, id in self.backend.get_vocab(with_added_tokens=True).items():
            # The byte-level alphabet has a character for each byte.
            sizes[id] = len(token.encode()) if id in added else len(token)
        sizes[self.eot_id] = 0
        return sizes

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; an end mark shows as `<|endoftext|>`."""
        return str(self.backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False))


def load_tokenizer(path: Path | str) -> TextTokenizer:
    """Load a tokenizer.json, a folder that holds one, or a folder with GPT-2's pair of vocabulary files.

    Raises DataError where it is none, has no <|endoftext|>, or does not give a text back as it was.
    """
    return parse_tokenizer(read_tokenizer(path), path)


def read_tokenizer(path: Path | str) -> bytes:
    """The tokenizer at `path` (see `load_tokenizer`), which may be an address, as the bytes of a tokenizer.json."""
    address = str(path).rstrip("/")
    for file in (address, f"{address}/tokenizer.json"):
        if _is_file(file):
            return read_bytes(file)
    for names in _VOCABULARY_FILES:
        vocabulary, merges = (f"{address}/{name}" for name in names)
        if _is_file(vocabulary) and _is_file(merges):
            return _from_vocabulary(vocabulary, merges)
    raise DataError(
        f"data.tokenizer: {path} is no tokenizer.json and no folder with one, or with vocab.json and merges.txt, or "
        "with encoder.json and vocab.bpe: correct the path, or train one with {train: bpe, vocab_size: N}"
    )


def file_fingerprint(data: bytes, path: Path | str) -> str:
    """What `parse_tokenizer` of the same bytes gives as its fingerprint, in a tenth of its time; raises DataError."""
    try:
        return tokenizer_fingerprint(json.loads(data))
    except ValueError as error:
        raise DataError(f"data.tokenizer: {path} is not a tokenizer.json ({error}): correct the path") from error


def parse_tokenizer(data: bytes, path: Path | str) -> TextTokenizer:
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


def _is_file(address: str) -> bool:
    if is_remote(address):
        return bool(find(address))
    with reading(address):
        return Path(address).is_file()


def _from_vocabulary(vocabulary: str, merges: str) -> bytes:
    try:
        lines = [line.rstrip("\r") for line in read_bytes(merges).decode().split("\n")]
        merged = (line.split(" ") for line in lines if line and not line.startswith("#version"))
        pairs = [(left, right) for left, right in merged]
        model = models.BPE(json.loads(read_bytes(vocabulary)), pairs)
    except DataError:
        raise
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


def _check_lossless(tokenizer: TextTokenizer, path: Path | str) -> None:
    for probe, ids in zip(_PROBES, tokenizer.encode(list(_PROBES)), strict=True):
        decoded = tokenizer.decode(ids)
        if decoded != probe or tokenizer.eot_id in ids:
            raise DataError(
                f"data.tokenizer: {path} changes text: {probe!r} comes back as {decoded!r}: take a byte-level "
                "tokenizer without a normaliser and without a space before the text"
            )
