import hashlib
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.shard_writer import ShardWriter

EOT = 9


def write(
    path: Path, documents: list[list[int]], block_tokens: int, batch: int = 2, dtype: str = "uint16"
) -> ShardWriter:
    with ShardWriter(path, dtype=dtype, eot_id=EOT, block_tokens=block_tokens) as writer:
        for at in range(0, len(documents), batch):
            writer.add([np.array(document, dtype=np.uint32) for document in documents[at : at + batch]])
        writer.close()
    return writer


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=12), min_size=1, max_size=15), st.integers(1, 20), st.integers(1, 5)
)
def test_shard_holds_every_document_and_its_start(documents: list[list[int]], block_tokens: int, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = write(Path(folder) / "a.tar", documents, block_tokens, batch)
        raw = (Path(folder) / "a.tar").read_bytes()
    expected = [token for document in documents for token in (*document, EOT)]
    starts = np.cumsum([0] + [len(document) + 1 for document in documents[:-1]]).tolist()
    tokens: list[int] = []
    found: list[int] = []
    for number, block in enumerate(writer.blocks):
        assert block.key == f"{number:06d}"
        docs = np.frombuffer(raw, "<u4", block.docs, block.docs_offset)
        found += (docs + len(tokens)).tolist()
        tokens += np.frombuffer(raw, "<u2", block.tokens, block.token_offset).tolist()
        assert zlib.crc32(docs.tobytes()) == block.docs_crc32
    assert (tokens, found) == (expected, starts)
    assert {block.tokens for block in writer.blocks[:-1]} <= {block_tokens}
    assert (writer.tokens, writer.documents, writer.bytes) == (len(expected), len(documents), len(raw))
    assert writer.sha256 == hashlib.sha256(raw).hexdigest()


def test_shard_is_an_anonymous_tar_without_times(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [[1, 2, 3], [4]], 4)
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        members = tar.getmembers()
    names = ["000000.tokens.npy", "000000.docs.npy", "000001.tokens.npy", "000001.docs.npy"]
    assert [member.name for member in members] == names
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert (tmp_path / "a.tar").read_bytes()[257:265] == b"ustar\x0000"


def test_shard_read_by_plain_webdataset_gives_tokens_and_starts(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [[1, 2, 3], [70000]], 4, dtype="uint32")
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["000000", "000001"]
    assert [sample["tokens.npy"].tolist() for sample in samples] == [[1, 2, 3, EOT], [70000, EOT]]
    assert [sample["docs.npy"].tolist() for sample in samples] == [[0], [0]]
    assert samples[0]["tokens.npy"].dtype == np.uint32


def test_shard_of_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        ShardWriter(tmp_path / "a.tar", dtype="uint16", eot_id=EOT, block_tokens=4) as writer,
    ):
        writer.add([np.arange(8, dtype=np.uint32)])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_shard_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"torn")
    writer = write(tmp_path / "a.tar", [[1]], 4)
    assert (tmp_path / "a.tar").stat().st_size == writer.bytes
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
