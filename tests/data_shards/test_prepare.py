import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.lock import locked
from data_shards.prepare import PrepareProgress, prepare
from data_shards.rejects import Reject
from data_shards.show import show
from data_shards.units import Unit
from data_shards.verify import verify
from data_shards.worker import UnitResult
from tests.data_shards.corpora import (
    line_settings,
    prepare_lines,
    public_files,
    refuse_to_run,
    sentence,
    times_of_change,
    write_lines,
)

Work = Callable[[Unit], UnitResult]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Three files of lines, cut into eight units."""
    write_lines(tmp_path / "corpus/a.txt", range(150))
    write_lines(tmp_path / "corpus/b.txt", range(150, 180))
    write_lines(tmp_path / "corpus/c.txt", range(180, 300))
    return tmp_path


def keep_keys(into: list[str]) -> Callable[[Work, Sequence[Unit]], Iterable[UnitResult]]:
    def run_units(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        into.extend(unit.key for unit in units)
        return map(work, units)

    return run_units


def test_prepare_gives_every_document_back_as_text(base: Path, tmp_path: Path) -> None:
    dataset = prepare_lines(base, tmp_path / "d")
    texts = [show(dataset, n, split) for split in ("train", "val") for n in range(_documents(dataset, split))]
    assert sorted(texts) == sorted(sentence(number) for number in range(300))
    assert len(dataset.split("train")) > 5
    assert 30 < _documents(dataset, "val") < 90
    assert verify(tmp_path / "d").problems == ()
    assert Dataset.open(tmp_path / "d") == dataset


def _documents(dataset: Dataset, split: str) -> int:
    return sum(shard.documents for shard in dataset.split(split))


def test_prepare_same_corpus_elsewhere_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "d")
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copytree(base / "corpus", moved / "corpus")
    prepare_lines(moved, tmp_path / "e")
    files = public_files(tmp_path / "d")
    assert files == public_files(tmp_path / "e")
    assert {"dataset.json", "manifest.parquet", "tokenizer.json", "train-00000.tar", "val-00000.tar"} <= files.keys()


def test_prepare_results_in_any_order_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    def shuffled(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        return map(work, random.Random(1).sample(units, len(units)))

    prepare_lines(base, tmp_path / "d")
    prepare_lines(base, tmp_path / "e", shuffled)
    assert public_files(tmp_path / "d") == public_files(tmp_path / "e")


def test_prepare_again_does_nothing(base: Path, tmp_path: Path) -> None:
    first = prepare_lines(base, tmp_path / "d")
    before = times_of_change(tmp_path / "d")
    assert prepare_lines(base, tmp_path / "d", refuse_to_run) == first
    assert times_of_change(tmp_path / "d") == before


def test_prepare_again_after_touch_runs_no_unit(base: Path, tmp_path: Path) -> None:
    first = prepare_lines(base, tmp_path / "d")
    os.utime(base / "corpus/a.txt", ns=(1, 1))
    assert prepare_lines(base, tmp_path / "d", refuse_to_run) == first


class Interrupted(Exception):
    """Stands for whatever ends a prepare half-way."""


def test_prepare_interrupted_goes_on_and_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    def three_then_stop(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        yield from map(work, units[2:5])
        raise Interrupted

    prepare_lines(base, tmp_path / "clean")
    with pytest.raises(Interrupted):
        prepare_lines(base, tmp_path / "d", three_then_stop)
    with pytest.raises(DataError, match="holds no dataset"):
        Dataset.open(tmp_path / "d")
    ran: list[str] = []
    prepare_lines(base, tmp_path / "d", keep_keys(ran))
    assert len(ran) == len(list((tmp_path / "clean").glob("train-*.tar"))) - 3
    assert public_files(tmp_path / "d") == public_files(tmp_path / "clean")
    assert not (tmp_path / "d/.units").exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"key'])
def test_prepare_damaged_record_of_a_stopped_prepare_is_no_record(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    def three_then_stop(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        yield from map(work, units[2:5])
        raise Interrupted

    prepare_lines(base, tmp_path / "clean")
    with pytest.raises(Interrupted):
        prepare_lines(base, tmp_path / "d", three_then_stop)
    record = min((tmp_path / "d/.units").iterdir())
    record.write_bytes(damage)
    ran: list[str] = []
    prepare_lines(base, tmp_path / "d", keep_keys(ran))
    assert record.stem in ran
    assert len(ran) == len(list((tmp_path / "clean").glob("train-*.tar"))) - 2
    assert public_files(tmp_path / "d") == public_files(tmp_path / "clean")
    assert f"{record.name}: not a record of a unit" in caplog.text


def test_prepare_finds_a_shard_that_is_short_and_makes_it_anew(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "d")
    before = public_files(tmp_path / "d")
    (tmp_path / "d/train-00002.tar").write_bytes(before["train-00002.tar"][:-1])
    (tmp_path / "d/val-00004.tar").unlink()
    ran: list[str] = []
    prepare_lines(base, tmp_path / "d", keep_keys(ran))
    assert len(ran) == 2
    assert public_files(tmp_path / "d") == before


def test_prepare_changed_file_redoes_its_units_alone_and_keeps_the_old_version(base: Path, tmp_path: Path) -> None:
    old = prepare_lines(base, tmp_path / "d")
    shards_before = {name: data for name, data in public_files(tmp_path / "d").items() if name.endswith(".tar")}
    write_lines(base / "corpus/b.txt", range(500, 530))
    ran: list[str] = []
    new = prepare_lines(base, tmp_path / "d", keep_keys(ran))
    assert len(ran) == 1
    assert new.fingerprint != old.fingerprint
    assert len(new.shards) == len(old.shards)
    assert Dataset.open(tmp_path / "d", old.fingerprint) == old
    assert shards_before.items() <= public_files(tmp_path / "d").items()
    assert {shard.unit for shard in new.shards} - {shard.unit for shard in old.shards} == set(ran)
    number = max(int(re.findall(r"\d+", shard.path)[0]) for shard in old.shards) + 1
    assert {shard.path for shard in new.shards if shard.unit in ran} == {
        f"train-{number:05d}.tar",
        f"val-{number:05d}.tar",
    }
    assert verify(tmp_path / "d").ok


def test_prepare_removed_file_is_gone_and_comes_back_without_work(base: Path, tmp_path: Path) -> None:
    old = prepare_lines(base, tmp_path / "d")
    (base / "corpus/c.txt").rename(base / "c.txt")
    less = prepare_lines(base, tmp_path / "d", refuse_to_run)
    assert {shard.unit for shard in less.shards} < {shard.unit for shard in old.shards}
    (base / "c.txt").rename(base / "corpus/c.txt")
    assert prepare_lines(base, tmp_path / "d", refuse_to_run) == old


def test_prepare_stopped_prepare_of_another_corpus_leaves_no_trace(base: Path, tmp_path: Path) -> None:
    def stop_at_end(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        yield from map(work, units)
        raise Interrupted

    # With this tokenizer both corpora have units in common, but under other numbers.
    tokenizer = str(prepare_lines(base, tmp_path / "t").tokenizer_path)
    write_lines(base / "corpus/0.txt", range(900, 1000))
    with pytest.raises(Interrupted):
        prepare_lines(base, tmp_path / "d", stop_at_end, tokenizer=tokenizer)
    (tmp_path / "d/.tmp-torn").write_bytes(b"x")
    (base / "corpus/0.txt").unlink()
    prepare_lines(base, tmp_path / "d", tokenizer=tokenizer)
    prepare_lines(base, tmp_path / "clean", tokenizer=tokenizer)
    assert public_files(tmp_path / "d") == public_files(tmp_path / "clean")
    assert list((tmp_path / "d").glob(".tmp-*")) == []


def test_prepare_killed_right_after_its_commit_is_tidied_up(base: Path, tmp_path: Path) -> None:
    first = prepare_lines(base, tmp_path / "d")
    (tmp_path / "d/.units").mkdir()
    (tmp_path / "d/train-00099.tar").write_bytes(b"of no version")
    assert prepare_lines(base, tmp_path / "d", refuse_to_run) == first
    assert not (tmp_path / "d/.units").exists()
    assert not (tmp_path / "d/train-00099.tar").exists()


def test_prepare_empty_unit_is_not_run_twice(base: Path, tmp_path: Path) -> None:
    (base / "corpus/d.txt").write_bytes(b"\n" * 3990)
    first = prepare_lines(base, tmp_path / "d")
    assert [(note.empty, dict(note.skipped)) for note in first.unit_notes.values()] == [(3990, {})]
    assert prepare_lines(base, tmp_path / "d", refuse_to_run) == first


def test_prepare_trained_tokenizer_stays_when_the_corpus_changes(base: Path, tmp_path: Path) -> None:
    old = prepare_lines(base, tmp_path / "d")
    write_lines(base / "corpus/d.txt", range(300, 400))
    new = prepare_lines(base, tmp_path / "d")
    assert new.tokenizer_fingerprint == old.tokenizer_fingerprint
    assert new.tokens("train") > old.tokens("train")


def test_prepare_tokenizer_sees_training_documents_alone(base: Path, tmp_path: Path) -> None:
    (base / "val.txt").write_text("qzqzqzqz qzqzqzqz\n" * 200)
    sources = [{"path": "val.txt", "document": "line"}]
    dataset = prepare_lines(base, tmp_path / "d", val_sources=sources)
    assert "qz" not in json.loads(dataset.tokenizer_path.read_text())["model"]["vocab"]
    assert {shard.source for shard in dataset.split("val")} == {"val.txt"}
    assert _documents(dataset, "train") == 300


def test_prepare_other_tokenizer_settings_in_the_same_folder_are_refused(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "d")
    with pytest.raises(DataError, match=r"data\.tokenizer: .*500.* was asked for, but .*400.*give another data\.dir"):
        prepare_lines(base, tmp_path / "d", tokenizer={"train": "bpe", "vocab_size": 500})


def test_prepare_given_tokenizer_is_copied(base: Path, tmp_path: Path) -> None:
    trained = prepare_lines(base, tmp_path / "d")
    given = prepare_lines(base, tmp_path / "e", tokenizer=str(trained.tokenizer_path))
    assert given.tokenizer_path.read_bytes() == trained.tokenizer_path.read_bytes()
    assert given.fingerprint == trained.fingerprint
    shutil.copytree(trained.dir, tmp_path / "elsewhere")
    moved = str(tmp_path / "elsewhere")
    assert prepare_lines(base, tmp_path / "e", refuse_to_run, tokenizer=moved) == given


def test_prepare_lost_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "d").tokenizer_path.unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: missing or changed since the dataset was made"):
        prepare_lines(base, tmp_path / "d")


def test_prepare_bad_records_are_skipped_and_later_refused(tmp_path: Path) -> None:
    lines = [json.dumps({"body": sentence(number)}) for number in range(100)]
    lines[7] = '{"body": 1}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    given: dict[str, Any] = {"sources": [{"path": "a.jsonl", "field": "body"}]}
    with pytest.raises(DataError, match=r"a\.jsonl:8: field body is no string: int 1"):
        prepare_lines(tmp_path, tmp_path / "d", **given)
    dataset = prepare_lines(tmp_path, tmp_path / "d", on_bad_record="skip", **given)
    assert _documents(dataset, "train") + _documents(dataset, "val") == 99
    [note] = dataset.unit_notes.values()
    assert dict(note.skipped) == {"field body is no string": 1}
    assert note.places == (Reject(f"{tmp_path}/a.jsonl:8", "field body is no string", "int 1"),)
    [row] = pq.read_table(tmp_path / "d/rejects.parquet").to_pylist()
    assert (row["source"], row["where"]) == ("a.jsonl", f"{tmp_path}/a.jsonl:8")
    with pytest.raises(DataError, match=r"a\.jsonl:8"):
        prepare_lines(tmp_path, tmp_path / "d", **given)
    assert Dataset.open(tmp_path / "d") == dataset


@pytest.mark.parametrize("tokenizer", ["trained", "given"])
def test_prepare_empty_corpus_is_refused(base: Path, tmp_path: Path, tokenizer: str) -> None:
    given = {} if tokenizer == "trained" else {"tokenizer": str(prepare_lines(base, tmp_path / "t").tokenizer_path)}
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"data\.sources: hold no (training )?document"):
        prepare_lines(tmp_path, tmp_path / "d", sources=["empty.txt"], **given)
    assert not (tmp_path / "d/dataset.json").exists()


def test_prepare_without_training_document_beside_val_sources_does_not_blame_val_fraction(
    base: Path, tmp_path: Path
) -> None:
    tokenizer = str(prepare_lines(base, tmp_path / "t").tokenizer_path)
    (tmp_path / "empty.txt").touch()
    given = {"val_sources": [str(base / "corpus/a.txt")], "tokenizer": tokenizer}
    with pytest.raises(DataError, match=r"data\.sources: hold no document to train on: give files"):
        prepare_lines(tmp_path, tmp_path / "d", sources=["empty.txt"], **given)


def test_prepare_validation_set_too_small_is_refused_with_numbers(base: Path, tmp_path: Path) -> None:
    settings = line_settings(base)
    with pytest.raises(DataError) as caught:
        prepare(settings, dir=tmp_path / "d", min_val_tokens=100_001)
    pattern = (
        r"validation set has (\d+) tokens in \d shards, .* needs 100001 in one: raise data\.val_fraction \(now 0\.2\)"
    )
    match = re.search(pattern, str(caught.value))
    assert match is not None
    assert not (tmp_path / "d/dataset.json").exists()
    dataset = prepare(settings, dir=tmp_path / "d", min_val_tokens=17)
    assert dataset.tokens("val") == int(match[1])
    with pytest.raises(DataError, match=r"or raise data\.unit_bytes \(now 4000\)"):
        prepare(settings, dir=tmp_path / "d", min_val_tokens=dataset.tokens("val"))


def test_prepare_folder_that_cannot_be_written_is_refused(base: Path) -> None:
    with pytest.raises(DataError, match=r"data\.dir: .*a\.txt/d cannot be written \(Not a directory\)"):
        prepare_lines(base, base / "corpus/a.txt/d")


def test_prepare_second_at_once_is_refused_naming_the_first(base: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "d"),
        pytest.raises(DataError, match=rf"d is being prepared by process {os.getpid()} on .*: wait for it"),
    ):
        prepare_lines(base, tmp_path / "d")


def test_prepare_file_that_changes_meanwhile_is_refused_and_its_unit_redone(base: Path, tmp_path: Path) -> None:
    def change_then_run(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        write_lines(base / "corpus/b.txt", range(600, 630))
        return map(work, units)

    with pytest.raises(DataError, match=r"b\.txt: changed while prepare was reading it"):
        prepare_lines(base, tmp_path / "d", change_then_run)
    write_lines(base / "corpus/b.txt", range(150, 180))
    prepare_lines(base, tmp_path / "d")
    prepare_lines(base, tmp_path / "clean")
    assert public_files(tmp_path / "d") == public_files(tmp_path / "clean")


def test_prepare_lost_unit_is_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="1 of 8 units gave no result"):
        prepare_lines(base, tmp_path / "d", lambda work, units: map(work, units[1:]))


def test_prepare_torn_dataset_file_is_made_anew(base: Path, tmp_path: Path) -> None:
    first = prepare_lines(base, tmp_path / "d")
    before = public_files(tmp_path / "d")
    (tmp_path / "d/dataset.json").write_bytes(b"{")
    assert prepare_lines(base, tmp_path / "d", refuse_to_run) == first
    assert public_files(tmp_path / "d") == before


def test_prepare_dataset_of_another_format_is_refused(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "d")
    path = tmp_path / "d/dataset.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 7'))
    with pytest.raises(DataError, match="format 7, but this Headrace reads format 3: prepare into another folder"):
        prepare_lines(base, tmp_path / "d")


def test_prepare_shows_progress_up_to_the_end(base: Path, tmp_path: Path) -> None:
    seen: list[PrepareProgress] = []
    dataset = prepare(line_settings(base), dir=tmp_path / "d", min_val_tokens=17, progress=seen.append)
    assert seen[0] == PrepareProgress("tokenizer", 0, 8, 0, 0)
    assert [(step.phase, step.units_done) for step in seen[1:-1]] == [("units", n) for n in range(1, 9)]
    assert seen[-1] == PrepareProgress("done", 8, 8, dataset.tokens("train") + dataset.tokens("val"), 300)


_KILLED = """
import sys, time
from pathlib import Path
from tests.data_shards.corpora import prepare_lines

def slowly(work, units):
    for unit in units:
        result = work(unit)
        print("unit", flush=True)
        sys.stdin.readline()
        yield result

prepare_lines(Path(sys.argv[1]), Path(sys.argv[2]), slowly)
"""


@pytest.mark.slow
@pytest.mark.parametrize("units_before", [1, 4])
def test_prepare_killed_goes_on_and_gives_the_same_bytes(base: Path, tmp_path: Path, units_before: int) -> None:
    prepare_lines(base, tmp_path / "clean")
    command = [sys.executable, "-c", _KILLED, str(base), str(tmp_path / "d")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(units_before):
            assert process.stdout.readline() == "unit\n"
            process.stdin.write("go on\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert len(list((tmp_path / "d/.units").glob("*.json"))) >= units_before
    ran: list[str] = []
    prepare_lines(base, tmp_path / "d", keep_keys(ran))
    assert 8 - units_before >= len(ran)
    assert public_files(tmp_path / "d") == public_files(tmp_path / "clean")


@pytest.mark.slow
def test_prepare_killed_at_any_moment_goes_on_and_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "clean")
    code = "import sys; from pathlib import Path; from tests.data_shards.corpora import prepare_lines; "
    code += "print('go', flush=True); prepare_lines(Path(sys.argv[1]), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(base), str(tmp_path / "d")]
    for moment in (0, 3, 7, 12):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 30
            while len(list((tmp_path / "d").glob("*.tar"))) < moment and time.monotonic() < deadline:
                if process.poll() is not None:
                    break
            process.kill()
        prepare_lines(base, tmp_path / "d")
        assert public_files(tmp_path / "d") == public_files(tmp_path / "clean")
