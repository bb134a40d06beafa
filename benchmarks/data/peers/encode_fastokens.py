"""The bare encoder: fastokens on texts that are in memory, its ids left in its buffers.

Options: corpus (a JSONL file), tokenizer (tokenizer.json), eot_id, batch_bytes, verify.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import fastokens
import numpy as np
from measured import Stretch, answer, documents_digest, options


def batches(corpus: str, batch_bytes: int) -> Iterator[list[str]]:
    """Documents in lists of about `batch_bytes` of JSON."""
    with Path(corpus).open("rb") as file:
        while lines := file.readlines(batch_bytes):
            yield [json.loads(line)["text"] for line in lines]


def with_end_marks(ids: bytes, offsets: bytes, eot_id: int) -> np.ndarray:
    """Tokens of a batch, uint32, each document followed by the end mark."""
    return np.insert(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64)[1:].astype(np.int64), eot_id)


def main() -> None:
    """Measure the second pass over the texts: the first fills the encoder's cache of words, as in a steady state.

    The texts are read anew for it, since a string keeps its UTF-8 form once something has asked for it.
    """
    asked = options()
    tokenizer = fastokens.Tokenizer.from_json_str(Path(asked["tokenizer"]).read_text())
    streams = (
        with_end_marks(*tokenizer.encode_batch_flat(batch, split_special_tokens=True), asked["eot_id"])
        for batch in batches(asked["corpus"], asked["batch_bytes"])
    )
    digest = documents_digest(streams, asked["eot_id"])
    texts = list(batches(asked["corpus"], asked["batch_bytes"]))
    tokens = 0
    with Stretch() as stretch:
        for batch in texts:
            ids, offsets = tokenizer.encode_batch_flat(batch, split_special_tokens=True)
            tokens += len(ids) // 4 + len(offsets) // 8 - 1
    answer(stretch, ("fastokens",), tokens=tokens, digest=digest)


if __name__ == "__main__":
    main()
