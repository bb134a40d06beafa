"""Datasets that are prepared in object stores."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3fs import S3FileSystem

from data_shards import leftovers, object_folder
from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.prepare import prepare
from data_shards.show import show
from data_shards.storage import open_folder
from data_shards.tokenizer import train_tokenizer
from data_shards.units import Unit
from data_shards.verify import verify
from data_shards.worker import UnitResult
from tests.data_shards.corpora import line_settings, prepare_lines, public_files, refuse_to_run, sentence, write_lines
from tests.data_shards.gcs import gcs_bucket  # noqa: F401  a fixture
from tests.data_shards.remote import Crash, Mortal, memory_address, shards_of, stored_files

Work = Callable[[Unit], UnitResult]
# What S3 is asked when something is to change.
CHANGES = {"put_object", "delete_object", "delete_objects", "create_multipart_upload", "copy_object"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Three files of lines, cut into five units."""
    write_lines(tmp_path / "corpus/a.txt", range(80))
    write_lines(tmp_path / "corpus/b.txt", range(150, 180))
    write_lines(tmp_path / "corpus/c.txt", range(180, 220))
    return tmp_path


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """A store that holds nothing: in memory, or on a server where `every_store` asks for it."""
    bucket = {"s3": "bucket", "gs": "gcs_bucket"}.get(getattr(request, "param", "memory"))
    return f"{request.getfixturevalue(bucket)}/deep/ds" if bucket else memory_address()


GS = pytest.param("gs", marks=pytest.mark.slow)
every_store = pytest.mark.parametrize("address", ["memory", "s3", GS], indirect=True)


def asked_of_s3(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that S3 is asked for from now on."""
    real, names = S3FileSystem._call_s3, []

    async def call(self: S3FileSystem, method: str, *args: Any, **options: Any) -> Any:
        names.append(method)
        return await real(self, method, *args, **options)

    monkeypatch.setattr(S3FileSystem, "_call_s3", call)
    return names


def while_running(act: Callable[[], object]) -> Callable[[Work, Sequence[Unit]], Iterable[UnitResult]]:
    """Runs units, and something else after the second of them."""

    def run_units(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        for number, unit in enumerate(units):
            if number == min(2, len(units) - 1):
                act()
            yield work(unit)

    return run_units


@every_store
def test_remote_prepare_writes_the_same_bytes_as_a_local_one(base: Path, address: str) -> None:
    here, there = prepare_lines(base, base / "d"), prepare_lines(base, address)
    assert there.fingerprint == here.fingerprint
    local, remote = public_files(base / "d"), stored_files(address)
    assert local.items() <= remote.items()
    extra = {"commits/000001.json", *(f"versions/{here.fingerprint}/tokenizer{x}.json" for x in ("", "_settings"))}
    assert remote.keys() - local.keys() == extra
    assert Dataset.open(address) == there
    assert verify(address).problems == ()
    texts = [show(there, n, s) for s in ("train", "val") for n in range(sum(x.documents for x in there.split(s)))]
    assert sorted(texts) == sorted(sentence(n) for n in (*range(80), *range(150, 220)))


def test_remote_prepare_again_changes_nothing(base: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = asked_of_s3(monkeypatch)
    first = prepare_lines(base, f"{bucket}/ds")
    assert CHANGES & set(names)
    names.clear()
    assert prepare_lines(base, f"{bucket}/ds", refuse_to_run) == first
    assert 0 < len(names) < 40
    assert not CHANGES & set(names)


def test_remote_prepare_of_a_remote_corpus_gives_the_same_shards(base: Path, bucket: str) -> None:
    fsspec.filesystem("s3").put(str(base / "corpus"), f"{bucket}/corpus", recursive=True)
    prepare_lines(base, base / "d")
    sources = [{"path": f"{bucket}/corpus/*.txt", "document": "line"}]
    first = prepare_lines(base, f"{bucket}/ds", sources=sources)
    assert shards_of(stored_files(f"{bucket}/ds")) == shards_of(dict(public_files(base / "d")))
    assert prepare_lines(base, f"{bucket}/ds", refuse_to_run, sources=sources) == first


def test_remote_prepare_changed_file_redoes_its_unit_and_keeps_the_old_version(base: Path, address: str) -> None:
    old = prepare_lines(base, address)
    before = shards_of(stored_files(address))
    write_lines(base / "corpus/b.txt", range(500, 530))
    new = prepare_lines(base, address)
    assert len({shard.unit for shard in new.shards} - {shard.unit for shard in old.shards}) == 1
    assert before.items() <= stored_files(address).items()
    assert (Dataset.open(address), Dataset.open(address, old.fingerprint)) == (new, old)
    assert verify(address).ok
    assert verify(address, old.fingerprint).ok


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_remote_prepare_that_dies_at_any_change_leaves_the_old_version_or_the_new(base: Path, after: bool) -> None:
    clean = memory_address()
    old = prepare_lines(base, clean)
    write_lines(base / "corpus/d.txt", range(500, 540))
    with Mortal(10**9, after=after) as counted:
        new = prepare_lines(base, clean)
    whole = stored_files(clean)
    assert counted.done > 12
    for moment in range(1, counted.done + 1):
        address = memory_address()
        (base / "corpus/d.txt").rename(base / "d.txt")
        prepare_lines(base, address)
        (base / "d.txt").rename(base / "corpus/d.txt")
        with Mortal(moment, after=after), pytest.raises(Crash):
            prepare_lines(base, address)
        assert Dataset.open(address).fingerprint in (old.fingerprint, new.fingerprint)
        assert verify(address).ok
        assert prepare_lines(base, address).fingerprint == new.fingerprint
        assert stored_files(address) == whole
        assert open_folder(address).names(".units/") == []


def test_remote_first_prepare_that_dies_at_any_change_leaves_nothing_or_all(base: Path) -> None:
    clean = memory_address()
    with Mortal(10**9, after=True) as counted:
        made = prepare_lines(base, clean)
    for moment in range(1, counted.done + 1, 3):
        address = memory_address()
        with Mortal(moment, after=True), pytest.raises(Crash):
            prepare_lines(base, address)
        committed = bool(open_folder(address).names("commits/"))
        if committed:
            assert Dataset.open(address).fingerprint == made.fingerprint
        else:
            with pytest.raises(DataError, match="holds no dataset"):
                Dataset.open(address)
        assert prepare_lines(base, address).fingerprint == made.fingerprint
        assert stored_files(address) == stored_files(clean)


def test_remote_prepare_with_a_new_file_of_empty_documents_alone_is_up_to_date_then(base: Path, address: str) -> None:
    old = prepare_lines(base, address)
    (base / "corpus/d.txt").write_bytes(b"\n" * 3990)
    new = prepare_lines(base, address)
    assert new.fingerprint == old.fingerprint
    assert [note.empty for note in new.unit_notes.values()] == [3990]
    with Mortal(1, after=False):
        assert prepare_lines(base, address, refuse_to_run) == new


def test_remote_prepare_interrupted_does_not_run_finished_units_again(base: Path, address: str) -> None:
    ran: list[str] = []

    def stop() -> None:
        raise Crash

    def note(work: Work, units: Sequence[Unit]) -> Iterable[UnitResult]:
        ran.extend(unit.key for unit in units)
        return map(work, units)

    with pytest.raises(Crash):
        prepare_lines(base, address, while_running(stop))
    prepare_lines(base, address, note)
    assert len(ran) == len(Dataset.open(address).split("train")) - 2


@every_store
def test_remote_prepares_of_other_corpora_at_once_one_loses_and_both_are_whole(base: Path, address: str) -> None:
    other = base / "other"
    write_lines(other / "corpus/x.txt", range(600, 700))
    tokenizer = base / "tokenizer.json"
    tokenizer.write_bytes(train_tokenizer((sentence(n) for n in range(300)), 400))
    made: list[Dataset] = []

    def faster() -> None:
        made.append(prepare_lines(other, address, tokenizer=str(tokenizer)))

    with pytest.raises(DataError, match=r"was prepared by another process at the same time, which was faster") as lost:
        prepare_lines(base, address, while_running(faster), tokenizer=str(tokenizer))
    assert made[0].fingerprint in str(lost.value)
    assert Dataset.open(address) == made[0]
    assert verify(address).ok
    # The work of the one that lost is there, under names of its own.
    mine = prepare_lines(base, address, refuse_to_run, tokenizer=str(tokenizer))
    assert Dataset.open(address) == mine
    assert verify(address).ok
    assert verify(address, made[0].fingerprint).ok
    assert not {s.path for s in mine.shards} & {s.path for s in made[0].shards}


def test_remote_prepares_of_the_same_corpus_at_once_agree(base: Path, address: str) -> None:
    made: list[Dataset] = []
    slower = prepare_lines(base, address, while_running(lambda: made.append(prepare_lines(base, address))))
    assert made == [slower]
    assert open_folder(address).names("commits/") == ["commits/000001.json"]
    assert verify(address).ok


def test_remote_prepares_with_other_tokenizers_at_once_one_says_so(base: Path, address: str) -> None:
    made: list[Dataset] = []
    vocabulary = {"train": "bpe", "vocab_size": 380}
    faster = while_running(lambda: made.append(prepare_lines(base, address, tokenizer=vocabulary)))
    with pytest.raises(DataError, match=r"tokenizer\.json: (changed since prepare began|was replaced)"):
        prepare_lines(base, address, faster)
    assert Dataset.open(address) == made[0]
    assert verify(address).ok


def test_remote_dataset_keeps_its_tokenizer_when_a_late_loser_replaces_the_shared_one(base: Path, address: str) -> None:
    made = prepare_lines(base, address)
    kept = stored_files(address)["tokenizer.json"]
    folder = open_folder(address)
    folder.write("tokenizer.json", train_tokenizer(["other"], 300))
    folder.write("tokenizer_settings.json", b'{"settings": {}, "fingerprint": "", "corpus": ""}')
    assert Dataset.open(address).tokenizer_path.read_bytes() == kept
    assert prepare_lines(base, address, refuse_to_run) == made
    write_lines(base / "corpus/d.txt", range(300, 340))
    assert prepare_lines(base, address).tokenizer_fingerprint == made.tokenizer_fingerprint
    assert stored_files(address)["tokenizer.json"] == kept
    assert verify(address).ok


def test_remote_prepare_whose_shard_is_taken_away_does_not_commit(base: Path, address: str) -> None:
    def take_away() -> None:
        open_folder(address).remove("train-00000.tar")

    with pytest.raises(DataError, match=r"train-00000\.tar: no bytes are there where \d+ were written \(1 shards"):
        prepare_lines(base, address, while_running(take_away))
    assert open_folder(address).names("commits/") == []
    prepare_lines(base, address)
    assert verify(address).ok


def test_remote_prepare_finds_a_lost_shard_and_makes_it_anew(base: Path, address: str) -> None:
    made = prepare_lines(base, address)
    before = stored_files(address)
    open_folder(address).remove("val-00001.tar")
    open_folder(address).write("train-00003.tar", b"short")
    assert prepare_lines(base, address) == made
    assert stored_files(address) == before


@every_store
def test_remote_prepare_removes_what_a_dead_one_left_a_week_ago(
    base: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = base / "other"
    write_lines(other / "corpus/x.txt", range(600, 700))
    with pytest.raises(Crash), Mortal(9, after=True):
        prepare_lines(other, address)
    left = shards_of(stored_files(address)).keys()
    assert left
    made = prepare_lines(base, address)
    assert left <= stored_files(address).keys()
    now = object_folder.time.time()
    monkeypatch.setattr(object_folder.time, "time", lambda: now + leftovers.DEAD_AFTER_SECONDS + 60)
    write_lines(base / "corpus/d.txt", range(300, 340))
    new = prepare_lines(base, address)
    assert not left & stored_files(address).keys()
    assert open_folder(address).names(".units/") == []
    assert verify(address, made.fingerprint).ok
    assert verify(address, new.fingerprint).ok


def test_remote_copy_of_a_local_dataset_opens_and_grows(base: Path, bucket: str) -> None:
    made, address = prepare_lines(base, base / "d"), f"{bucket}/copy"
    fsspec.filesystem("s3").put(str(base / "d"), address, recursive=True)
    assert Dataset.open(address).fingerprint == made.fingerprint
    assert verify(address).ok
    write_lines(base / "corpus/d.txt", range(300, 340))
    new = prepare_lines(base, address)
    assert {shard.path for shard in made.shards} < {shard.path for shard in new.shards}
    assert Dataset.open(address) == new
    assert verify(address, made.fingerprint).ok


def test_remote_dataset_downloaded_is_a_local_dataset(base: Path, bucket: str) -> None:
    made = prepare_lines(base, f"{bucket}/ds")
    fsspec.filesystem("s3").get(f"{bucket}/ds/", str(base / "got"), recursive=True)
    assert Dataset.open(base / "got").fingerprint == made.fingerprint
    assert verify(base / "got").ok
    shutil.rmtree(base / "got/versions")
    assert Dataset.open(base / "got").fingerprint == made.fingerprint


def test_remote_prepare_where_nothing_may_be_written_is_refused(base: Path, bucket: str) -> None:
    with pytest.raises(DataError, match=r"s3://nobody-has-this-bucket/ds/.*: the store refused or did not answer"):
        prepare_lines(base, "s3://nobody-has-this-bucket/ds")


def test_remote_prepare_without_the_stores_library_says_what_to_install(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match=r"gs:// needs a package .*pip install headrace\[gs\]"):
        prepare(line_settings(base), dir="gs://bucket/ds", min_val_tokens=17)


_KILLED = """
import sys
from pathlib import Path
from tests.data_shards.corpora import prepare_lines

def slowly(work, units):
    for unit in units:
        yield work(unit)
        print("unit", flush=True)
        sys.stdin.readline()

prepare_lines(Path(sys.argv[1]), sys.argv[2], slowly)
"""


@pytest.mark.slow
def test_remote_prepare_killed_goes_on_and_gives_the_same_bytes(base: Path, bucket: str) -> None:
    prepare_lines(base, f"{bucket}/clean")
    command = [sys.executable, "-c", _KILLED, str(base), f"{bucket}/ds"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "unit\n"
            process.stdin.write("go on\n")
            process.stdin.flush()
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert len(open_folder(f"{bucket}/ds").names(".units/")) >= 3
    prepare_lines(base, f"{bucket}/ds")
    assert stored_files(f"{bucket}/ds") == stored_files(f"{bucket}/clean")
