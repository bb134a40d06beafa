import dataclasses
import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xxhash import xxh3_64_intdigest

from data_shards.blocks import Block, Blocks, BlockStore, block_key
from data_shards.errors import DataError
from data_shards.manifest import Shard, dataset_fingerprint, manifest_bytes, parse_manifest
from tests.peak_memory import peak_rss_bytes

PATH = Path("m.parquet")


def made_up_hash(number: int, block: int) -> int:
    """Some 64 bits."""
    return xxh3_64_intdigest(bytes([number % 256, block]))


def made_up_blocks(number: int) -> tuple[Block, ...]:
    """Zero to four blocks with numbers of all sizes."""
    return tuple(
        Block(
            block_key(i),
            640 + i * 2**40,
            7 + i,
            made_up_hash(number, i),
            number + i,
            i,
            2**64 - 1 - i,
        )
        for i in range(number % 5)
    )


def made_up_shards(count: int) -> tuple[Shard, ...]:
    return tuple(
        Shard("train", f"s{n % 3}", f"train-{n:05d}.tar", n, 1, n * 7, f"{n:064x}", f"u{n}", made_up_blocks(n), n * 4)
        for n in range(count)
    )


@pytest.mark.parametrize("count", [0, 1, 256, 600])
def test_manifest_comes_back_equal_block_by_block_and_as_the_same_bytes(count: int) -> None:
    shards = made_up_shards(count)
    data = manifest_bytes(shards)
    found = parse_manifest(data, PATH)
    assert found == shards
    assert [tuple(shard.blocks) for shard in found] == [shard.blocks for shard in shards]
    assert manifest_bytes(shards) == data
    assert manifest_bytes(found) == data


def test_manifest_blocks_behave_as_a_tuple_does() -> None:
    [*_, shard] = parse_manifest(manifest_bytes(made_up_shards(5)), PATH)
    blocks, expected = shard.blocks, made_up_blocks(4)
    assert (len(blocks), blocks[1], blocks[-1], blocks[1:]) == (4, expected[1], expected[3], expected[1:])
    assert blocks == expected
    assert expected == blocks
    assert blocks != expected[:3]
    assert hash(blocks) == hash(expected)
    assert Shard.from_dict(json.loads(json.dumps(shard.to_dict()))) == shard


def test_manifest_blocks_are_decoded_when_asked_for_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    read = BlockStore._group

    def counting(store: BlockStore, group: int) -> object:
        if group not in store._groups:
            decoded.append(group)
        return read(store, group)

    monkeypatch.setattr(BlockStore, "_group", counting)
    shards = parse_manifest(manifest_bytes(made_up_shards(256 * 10)), PATH)
    assert decoded == []
    assert all(isinstance(shard.blocks, Blocks) for shard in shards)
    assert [len(shards[n].blocks) for n in (0, 1, 255, 256, 257)] == [0, 1, 0, 1, 2]
    assert decoded == [0, 1]
    for shard in shards[::256]:
        len(shard.blocks)
    assert decoded == list(range(10))
    assert len(shards[1].blocks) == 1  # its group was pushed out by the last eight
    assert decoded == [*range(10), 0]


def test_manifest_block_with_a_key_of_another_place_is_refused() -> None:
    [shard] = made_up_shards(2)[1:]
    wrong = dataclasses.replace(shard, blocks=(dataclasses.replace(shard.blocks[0], key="000001"),))
    with pytest.raises(ValueError, match="block 0 of a shard has the key 000001, not 000000"):
        manifest_bytes([wrong])


def test_manifest_of_other_columns_or_torn_is_refused_by_path() -> None:
    data = manifest_bytes(made_up_shards(3))
    with pytest.raises(DataError, match=r"m\.parquet: not a manifest of this format"):
        parse_manifest(data[:-9], PATH)
    other = io.BytesIO()
    pq.write_table(pa.table({"split": ["train"]}), other)
    with pytest.raises(DataError, match=r"m\.parquet: not a manifest of this format \(its columns are others\)"):
        parse_manifest(other.getvalue(), PATH)


def test_fingerprint_changes_with_every_fact_but_for_blocks_the_sha256_stands() -> None:
    shards = made_up_shards(4)
    plain = dataset_fingerprint("t", shards)
    assert plain == dataset_fingerprint("t", shards[::-1])
    for field in dataclasses.fields(Shard):
        value = getattr(shards[2], field.name)
        changed = value[:1] if field.name == "blocks" else value + type(value)(1)
        others = (*shards[:2], dataclasses.replace(shards[2], **{field.name: changed}), shards[3])
        assert (dataset_fingerprint("t", others) == plain) == (field.name == "blocks"), field.name
    assert dataset_fingerprint("u", shards) != plain


class SharedRows:
    """A store in which all shards have the same 77 blocks."""

    def __init__(self) -> None:
        template = parse_manifest(manifest_bytes([made_up_shards(5)[4]]), PATH)[0].blocks
        assert isinstance(template, Blocks)
        self._rows = np.resize(template.rows, 77)

    def rows(self, row: int) -> object:
        return self._rows


def write_huge_manifest(path: Path) -> None:
    """200,000 shards, 10**12 tokens and 15.4 million blocks; made up."""
    blocks = Blocks(SharedRows(), 0)  # type: ignore[arg-type]
    shards = [
        Shard("train", f"s{n % 7}", f"train-{n:05d}.tar", 5_000_000, 9, n, f"{n:064x}", f"{n:016x}", blocks, n)
        for n in range(200_000)
    ]
    path.write_bytes(manifest_bytes(shards))


def open_huge_manifest(path: Path) -> None:
    """Checks that are made in a process of their own, whose peak memory is the manifest's."""
    shards = parse_manifest(path.read_bytes(), path)
    assert len(shards) == 200_000
    assert sum(shard.tokens for shard in shards) == 10**12
    assert len(dataset_fingerprint("t", shards)) == 64
    assert sum(len(shards[number].blocks) for number in range(0, 200_000, 10_000)) == 20 * 77
    usage = resource.getrusage(resource.RUSAGE_SELF)
    assert usage.ru_utime + usage.ru_stime < 15, usage
    assert peak_rss_bytes() < 700_000_000  # of which pyarrow and numpy are 100 MB


@pytest.mark.slow
def test_manifest_of_200000_shards_opens_in_seconds_and_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_huge_manifest(path)
    code = f"from tests.data_shards.test_manifest import *; open_huge_manifest(Path({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["../train-00000.tar", "/etc/train.tar", "a/../../b.tar", ""])
def test_manifest_with_a_path_that_leaves_the_folder_is_refused(name: str) -> None:
    shards = [dataclasses.replace(shard, path=name) for shard in made_up_shards(1)]
    with pytest.raises(DataError, match=r"a shard's path must lie in the dataset's folder, found"):
        parse_manifest(manifest_bytes(shards), PATH)
