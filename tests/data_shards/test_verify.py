import tarfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.manifest import Shard, dataset_fingerprint
from data_shards.shard_writer import ShardWriter
from data_shards.storage import LocalFolder
from data_shards.tokenizer import load_tokenizer, train_tokenizer
from data_shards.verify import reader_check, shard_problems, verify
from tests.data_shards.corpora import prepare_lines, sentence, write_lines
from tests.data_shards.reading import flat


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    base = tmp_path_factory.mktemp("verify")
    write_lines(base / "corpus/a.txt", range(80))
    return prepare_lines(base, base / "d", block_tokens=100)


def shard_of(made: Dataset) -> tuple[Shard, Path]:
    shard = made.split("train")[0]
    assert len(shard.blocks) > 3
    return shard, made.dir / shard.path


@pytest.fixture
def spoil(made: Dataset) -> Callable[[Callable[[bytearray], None]], list[str]]:
    """Spoils a copy of the first shard and gives what verify says of it."""
    shard, path = shard_of(made)
    whole = path.read_bytes()

    def spoiled(change: Callable[[bytearray], None]) -> list[str]:
        data = bytearray(whole)
        change(data)
        path.write_bytes(data)
        try:
            return [problem.what for problem in verify(made.dir).problems if problem.path == shard.path]
        finally:
            path.write_bytes(whole)

    return spoiled


def test_verify_whole_dataset_counts_and_finds_nothing(made: Dataset) -> None:
    report = verify(made.dir)
    assert (report.ok, report.problems, report.fingerprint) == (True, (), made.fingerprint)
    assert (report.documents, report.shards) == (80, len(made.shards))
    assert report.tokens == made.tokens("train") + made.tokens("val")


def test_plain_webdataset_gives_the_texts_back(made: Dataset) -> None:
    tokenizer = load_tokenizer(made.tokenizer_path)
    texts = []
    for shard in made.shards:
        blocks = reader_check(made.dir / shard.path)
        tokens = np.concatenate([tokens for tokens, _ in blocks])
        firsts = np.cumsum([0, *(len(tokens) for tokens, _ in blocks[:-1])])
        starts = np.concatenate([first + docs for first, (_, docs) in zip(firsts, blocks, strict=True)])
        bounds = [*starts.tolist(), len(tokens)]
        texts += [tokenizer.decode(tokens[a : b - 1]) for a, b in pairwise(bounds)]
        assert set(tokens[np.array(bounds[1:]) - 1]) == {made.eot_id}
    assert sorted(texts) == sorted(sentence(number) for number in range(80))


def test_verify_flipped_token_is_found(made: Dataset, spoil: Callable[..., list[str]]) -> None:
    block = shard_of(made)[0].blocks[1]

    def flip(data: bytearray) -> None:
        data[block.token_offset] ^= 1

    first, second = spoil(flip)[:2]
    assert first.startswith("SHA-256 is ")
    assert second == "block 000001: hash of the tokens is wrong"


def test_verify_flipped_document_start_is_found(made: Dataset, spoil: Callable[..., list[str]]) -> None:
    block = shard_of(made)[0].blocks[0]

    def flip(data: bytearray) -> None:
        data[block.docs_offset] ^= 0xFF

    found = spoil(flip)
    assert "block 000000: hash of the document starts is wrong" in found
    assert "the documents' starts do not rise from 0" in found


def test_verify_flipped_header_is_found(spoil: Callable[..., list[str]]) -> None:
    def flip(data: bytearray) -> None:
        data[0] ^= 1

    assert any(what.startswith("not a legal tar") for what in spoil(flip))


def test_verify_other_type_in_the_array_header_is_found(made: Dataset, spoil: Callable[..., list[str]]) -> None:
    def flip(data: bytearray) -> None:
        place = data.index(b"<u2")
        data[place + 1] = ord("i")

    tokens = shard_of(made)[0].blocks[0].tokens
    offset = shard_of(made)[0].blocks[0].token_offset
    assert f"000000.tokens.npy: not an array of {tokens} uint16 at byte {offset}" in spoil(flip)


def test_verify_cut_and_missing_shards_are_found(made: Dataset) -> None:
    shard, path = shard_of(made)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    cut = verify(made.dir).problems
    path.unlink()
    missing = verify(made.dir).problems
    path.write_bytes(whole)
    assert len(cut) == len(missing) == 1
    assert f"has {shard.bytes - 1} bytes, but the manifest says {shard.bytes} bytes" in cut[0].what
    assert "is missing" in missing[0].what
    assert cut[0].path == shard.path


def test_verify_other_tokenizer_is_found(made: Dataset) -> None:
    whole = made.tokenizer_path.read_bytes()
    made.tokenizer_path.write_bytes(train_tokenizer(["other"], 300))
    changed = verify(made.dir).problems
    made.tokenizer_path.unlink()
    missing = verify(made.dir).problems
    made.tokenizer_path.write_bytes(whole)
    assert [problem.path for problem in changed + missing] == ["tokenizer.json"] * 2
    assert f"but the dataset was made with {made.tokenizer_fingerprint}" in changed[0].what
    assert "is no tokenizer.json" in missing[0].what


def written(dir: Path, documents: list[list[int]]) -> tuple[Dataset, Shard]:
    """A shard whose hashes are right, whatever its tokens."""
    with ShardWriter(LocalFolder(dir), "train-00000.tar", dtype="uint16", eot_id=0, block_tokens=4) as writer:
        writer.add_flat(*flat(documents))
        writer.close()
    shard = Shard(
        "train",
        "s",
        "train-00000.tar",
        writer.tokens,
        writer.documents,
        writer.bytes,
        writer.sha256,
        "u",
        tuple(writer.blocks),
    )
    fingerprint = dataset_fingerprint("t", (shard,))
    return Dataset(dir, fingerprint, "t", "c", 300, 0, "uint16", (shard,)), shard


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ([[1, 2, 3, 4, 5], [6]], None),
        ([[1], [300]], "block 000000: token 300 is outside the vocabulary of 300"),
        ([[1, 0, 2]], "the end marks (token 0) do not stand at the documents' ends"),
    ],
)
def test_shard_problems_of_tokens_are_found(tmp_path: Path, documents: list[list[int]], problem: str | None) -> None:
    found = list(shard_problems(*written(tmp_path, documents)))
    assert found == ([] if problem is None else [problem])


def test_shard_problems_of_a_wrong_manifest_are_found(tmp_path: Path) -> None:
    dataset, shard = written(tmp_path, [[1, 2, 3, 4, 5], [6]])
    wrong = replace(shard, tokens=9, documents=3)
    found = list(shard_problems(dataset, wrong))
    assert "its blocks have 8 tokens, but the manifest says 9" in found
    assert "2 documents start in it, but the manifest says 3" in found
    fewer = replace(shard, blocks=shard.blocks[:1])
    assert "the tar has 4 members, which are not the 2 of the manifest" in list(shard_problems(dataset, fewer))


def test_shard_problems_of_extra_member_are_found(tmp_path: Path) -> None:
    dataset, shard = written(tmp_path, [[1, 2]])
    with tarfile.open(tmp_path / shard.path, "a") as tar:
        tar.addfile(tarfile.TarInfo("extra"))
    grown = replace(shard, bytes=(tmp_path / shard.path).stat().st_size)
    assert "the tar has 3 members, which are not the 2 of the manifest" in list(shard_problems(dataset, grown))


def test_verify_of_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no dataset"):
        verify(tmp_path)
