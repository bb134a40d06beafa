import hashlib
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from data_shards.shard_writer import ShardWriter
from data_shards.storage import LocalFolder
from tests.data_shards.reading import flat

EOT = 9
DOCUMENTS = st.lists(st.lists(st.integers(0, 8), max_size=12), min_size=1, max_size=15)


def open_writer(path: Path, block_tokens: int, dtype: str = "uint16") -> ShardWriter:
    return ShardWriter(LocalFolder(path.parent), path.name, dtype=dtype, eot_id=EOT, block_tokens=block_tokens)


def write(
    path: Path, documents: Sequence[Sequence[int]], block_tokens: int, batch: int = 2, dtype: str = "uint16"
) -> ShardWriter:
    with open_writer(path, block_tokens, dtype) as writer:
        for at in range(0, len(documents), batch):
            writer.add_flat(*flat(documents[at : at + batch]))
        writer.close()
    return writer


@settings(max_examples=30, deadline=None)
@given(DOCUMENTS, st.integers(1, 20), st.integers(1, 5))
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
        held = np.frombuffer(raw, "<u2", block.tokens, block.token_offset)
        tokens += held.tolist()
        assert xxh3_64_intdigest(held.tobytes()) == block.token_xxh3
        assert xxh3_64_intdigest(docs.tobytes()) == block.docs_xxh3
    assert (tokens, found) == (expected, starts)
    assert {block.tokens for block in writer.blocks[:-1]} <= {block_tokens}
    assert (writer.tokens, writer.documents, writer.bytes) == (len(expected), len(documents), len(raw))
    assert writer.sha256 == hashlib.sha256(raw).hexdigest()


@settings(max_examples=30, deadline=None)
@given(DOCUMENTS, st.integers(1, 20), st.data())
def test_shard_of_documents_in_parts_has_the_same_bytes(
    documents: list[list[int]], block_tokens: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = write(Path(folder) / "a.tar", documents, block_tokens, len(documents))
        with open_writer(Path(folder) / "b.tar", block_tokens) as writer:
            held: list[list[int]] = []
            for document in documents:
                if document and data.draw(st.booleans()):
                    at = data.draw(st.integers(1, len(document)))
                    writer.add_flat(*flat([*held, document[:at]]), unfinished=True)
                    held, document = [], document[at:]
                held.append(document)
            writer.add_flat(*flat(held))
            writer.close()
        assert (Path(folder) / "b.tar").read_bytes() == (Path(folder) / "a.tar").read_bytes()
    assert writer.blocks == whole.blocks
    assert (writer.documents, writer.tokens, writer.sha256) == (whole.documents, whole.tokens, whole.sha256)


@settings(max_examples=30, deadline=None)
@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, st.integers(1, 20))
def test_shard_after_a_rollback_is_as_if_nothing_had_come(
    before: list[list[int]], dropped: list[list[int]], after: list[list[int]], block_tokens: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = write(Path(folder) / "a.tar", [*before, *after], block_tokens)
        with open_writer(Path(folder) / "b.tar", block_tokens) as writer:
            writer.add_flat(*flat(before))
            mark = writer.mark()
            for _ in range(2):
                writer.add_flat(*flat(dropped), unfinished=True)
                writer.rollback(mark)
            writer.add_flat(*flat(after))
            writer.close()
        assert (Path(folder) / "b.tar").read_bytes() == (Path(folder) / "a.tar").read_bytes()
    assert (writer.blocks, writer.sha256, writer.bytes) == (whole.blocks, whole.sha256, whole.bytes)


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


def test_shard_has_a_known_hash(tmp_path: Path) -> None:
    writer = write(tmp_path / "a.tar", [[1, 2, 3], [4], list(range(9)) * 30], 100)
    assert writer.sha256 == "5343ab858a9dddccc185a0290354d68cd62f0a3325f77f34e724882b99b3e789"


def test_shard_of_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_writer(tmp_path / "a.tar", 4) as writer:
        writer.add_flat(*flat([range(8)]))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_shard_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"torn")
    writer = write(tmp_path / "a.tar", [[1]], 4)
    assert (tmp_path / "a.tar").stat().st_size == writer.bytes
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
