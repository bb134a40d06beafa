import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from data_shards import isolation
from data_shards.errors import DataError
from data_shards.pieces import cut_file
from data_shards.rejects import Reject
from data_shards.storage import LocalFolder
from data_shards.tokenizer import parse_tokenizer, save_tokenizer, train_tokenizer
from data_shards.unit_output import shard_name, token_dtype
from data_shards.units import Unit, plan_units
from data_shards.worker import UnitResult, UnitWorker, read_record
from tests.data_shards.corpora import line_settings, write_lines


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    write_lines(tmp_path / "corpus/a.txt", range(50))
    return replace(plan_units(line_settings(tmp_path), cut_file)[0], shard=3)


@pytest.fixture
def worker(tmp_path: Path) -> UnitWorker:
    data = train_tokenizer(["some text"], 300)
    save_tokenizer(data, tmp_path / "tokenizer.json")
    return UnitWorker(str(tmp_path), parse_tokenizer(data, Path("t")).fingerprint, 256, "fail")


def test_worker_leaves_shards_and_a_record(tmp_path: Path, unit: Unit, worker: UnitWorker) -> None:
    result = worker(unit)
    assert [shard.path for shard in result.shards] == ["train-00003.tar", "val-00003.tar"]
    assert [(tmp_path / shard.path).stat().st_size for shard in result.shards] == [s.bytes for s in result.shards]
    assert read_record(LocalFolder(tmp_path), unit.key) == result
    assert UnitResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_worker_and_unit_survive_pickling(unit: Unit, worker: UnitWorker) -> None:
    assert pickle.loads(pickle.dumps(worker))(pickle.loads(pickle.dumps(unit))) == worker(unit)


def test_worker_unit_without_documents_of_a_split_leaves_no_file(
    tmp_path: Path, unit: Unit, worker: UnitWorker
) -> None:
    result = worker(replace(unit, rule=replace(unit.rule, kind="train")))
    assert [shard.split for shard in result.shards] == ["train"]
    assert not (tmp_path / "val-00003.tar").exists()


def test_worker_that_fails_leaves_nothing(tmp_path: Path, unit: Unit, worker: UnitWorker) -> None:
    path = Path(unit.pieces[0].file.path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"a\.txt: .* bytes shorter"):
        worker(unit)
    assert read_record(LocalFolder(tmp_path), unit.key) is None
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tar" or path.name.startswith(".tmp")] == []


def test_worker_other_tokenizer_in_the_folder_is_refused(tmp_path: Path, unit: Unit, worker: UnitWorker) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json: changed since prepare began"):
        replace(worker, tokenizer_fingerprint="other")(unit)


def test_worker_result_with_bad_records_comes_back(tmp_path: Path, unit: Unit, worker: UnitWorker) -> None:
    path = Path(unit.pieces[0].file.path)
    data = path.read_bytes()
    path.write_bytes(b"\xff" + data[1:])
    result = replace(worker, on_bad_record="skip")(unit)
    assert result.note.skipped == {"invalid UTF-8": 1}
    assert result.note.places == (
        Reject(f"{path}:1", "invalid UTF-8", "byte 1 of the line, 0xff (invalid start byte)"),
    )
    assert read_record(LocalFolder(tmp_path), unit.key) == result
    assert UnitResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize("changes", [{"fast_encoder": False}, {"careful": True}])
def test_worker_in_every_way_writes_the_same(
    tmp_path: Path, unit: Unit, worker: UnitWorker, changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(isolation, "try_texts", lambda path, texts, fast: tried.extend([path, *texts]) or {})
    result = worker(unit)
    assert replace(worker, **changes)(unit) == result
    if "careful" in changes:
        assert tried[0] == f"{tmp_path}/tokenizer.json"
        assert len(tried) == 1 + sum(shard.documents for shard in result.shards)


def test_worker_in_pairs_has_more_documents(unit: Unit, worker: UnitWorker) -> None:
    path = Path(unit.pieces[0].file.path)
    size = path.stat().st_size
    path.write_bytes((b"One is. Two is. Three is.\n" * (size // 26)).ljust(size, b"\n"))
    whole, pairs = worker(unit), replace(worker, packing="sentence_pairs")(unit)
    assert [shard.documents for shard in pairs.shards] == [2 * shard.documents for shard in whole.shards]
    assert [shard.text_bytes for shard in pairs.shards] == [shard.text_bytes for shard in whole.shards]


def test_shard_name_grows_with_its_number() -> None:
    assert [shard_name("val", n) for n in (0, 99_999, 100_000)] == ["val-00000.tar", "val-99999.tar", "val-100000.tar"]


def test_token_dtype_is_the_smallest_that_fits() -> None:
    assert [token_dtype(n) for n in (257, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]
