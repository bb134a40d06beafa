"""The usual script on tiktoken: a pool of processes encodes documents, the parent appends uint16 to one .bin file.

It follows the preparation script of nanoGPT, but hands a worker many lines at a time, which costs less in pipes.
Options: corpus (a JSONL file), vocabulary (a folder with encoder.json and vocab.bpe), out, eot_id, workers, verify.
"""

import json
import os
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import tiktoken
from measured import Stretch, answer, documents_digest, options
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

LINES_BYTES = 1 << 20
_encoding: tiktoken.Encoding


def start_worker(vocabulary: str, eot_id: int) -> None:
    """Load GPT-2's vocabulary from local files."""
    global _encoding
    folder = Path(vocabulary)
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    _encoding = tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": eot_id}
    )


def encode(lines: list[bytes]) -> bytes:
    """Tokens of the lines' documents, each followed by the end mark, as uint16."""
    ids: list[int] = []
    for line in lines:
        ids += _encoding.encode_ordinary(json.loads(line)["text"])
        ids.append(_encoding.eot_token)
    return np.array(ids, dtype=np.uint16).tobytes()


def many_lines(corpus: str) -> Iterator[list[bytes]]:
    """The file's lines, about a megabyte at a time."""
    with Path(corpus).open("rb") as file:
        while lines := file.readlines(LINES_BYTES):
            yield lines


def main() -> None:
    """Measure one run; starting the pool and loading the vocabulary are not counted."""
    asked = options()
    out = Path(asked["out"]) / "train.bin"
    warm = json.dumps({"text": "warm"}).encode()
    pool = Pool(asked["workers"], start_worker, (asked["vocabulary"], asked["eot_id"]))
    pool.map(encode, [[warm]] * asked["workers"] * 4, chunksize=1)
    before = _children_seconds(pool)
    with Stretch() as stretch, out.open("wb") as file:
        for data in pool.imap(encode, many_lines(asked["corpus"])):
            file.write(data)
    stretch.cpu_seconds += _children_seconds(pool) - before  # the stretch counts only children that have ended
    pool.close()
    pool.join()
    ids = np.fromfile(out, np.uint16)
    digest = documents_digest([ids], asked["eot_id"]) if asked["verify"] else None
    answer(stretch, ("tiktoken",), tokens=len(ids), digest=digest)


def _children_seconds(pool: Pool) -> float:
    """CPU seconds of the pool's living processes."""
    ticks = 0
    for process in pool._pool:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
