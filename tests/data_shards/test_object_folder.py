import hashlib
import multiprocessing
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_shards import object_folder
from data_shards.errors import DataError
from data_shards.object_folder import ObjectFolder
from tests.data_shards.gcs import gcs_bucket  # noqa: F401  a fixture


@pytest.fixture
def memory() -> ObjectFolder:
    return ObjectFolder(f"memory://{uuid.uuid4().hex}/d")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_folder, "CREATE_WAITS_SECONDS", (0.0, 0.0))


def answers(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None, written: bool) -> list[str]:
    """The store's next puts fail with these errors (None: they succeed), with the object written or not."""
    real, left, asked = MemoryFileSystem.pipe_file, list(errors), []

    def pipe_file(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        asked.append(mode)
        error = left.pop(0) if left else None
        if error is None or written:
            real(self, path, value, mode=mode, **options)
        if error is not None:
            raise error

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    return asked


def test_create_whose_answer_is_lost_finds_its_own_object(
    memory: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, TimeoutError("no answer"), written=True)
    assert memory.create("a", b"mine")
    assert asked == ["create"]


def test_create_sent_twice_by_the_client_is_not_refused_by_itself(
    memory: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, FileExistsError("precondition failed"), written=True)
    assert memory.create("a", b"mine")


def test_create_in_conflict_is_tried_again(memory: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, OSError("ConditionalRequestConflict"), None, written=False)
    assert memory.create("a", b"mine")
    assert asked == ["create", "create"]
    assert memory.read("a") == b"mine"


def test_create_that_never_gets_an_answer_raises(memory: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, *[TimeoutError("no answer")] * 9, written=False)
    with pytest.raises(DataError, match=r"d/a: the store refused or did not answer \(no answer\)"):
        memory.create("a", b"mine")
    assert len(asked) == 3


def test_create_without_permission_is_not_tried_again(memory: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, PermissionError("Access Denied"), written=False)
    with pytest.raises(DataError, match="Access Denied"):
        memory.create("a", b"mine")
    assert len(asked) == 1


def test_publish_that_the_store_cut_off_is_refused(
    memory: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = memory.staging("train-00000.tar")
    staged.write_bytes(b"12345")

    def put_file(self: Any, lpath: str, rpath: str, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes()[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    with pytest.raises(DataError, match="5 bytes were written, but the store has 4"):
        memory.publish(staged, "train-00000.tar")
    assert staged.read_bytes() == b"12345"
    staged.unlink()


def test_names_older_than_go_by_the_time_of_the_last_write(
    memory: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.write("a", b"")
    assert memory.names_older_than(60) == []
    now = object_folder.time.time()
    monkeypatch.setattr(object_folder.time, "time", lambda: now + 100)
    memory.write("b", b"")
    assert memory.names_older_than(60) == ["a", "b"]
    assert memory.names_older_than(200) == []


def test_s3_names_older_than_knows_the_time(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ObjectFolder(bucket)
    folder.write("a", b"")
    assert folder.names_older_than(60) == []
    now = object_folder.time.time()
    monkeypatch.setattr(object_folder.time, "time", lambda: now + 100)
    assert folder.names_older_than(60) == ["a"]


def test_s3_large_file_goes_up_in_parts_and_comes_back(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_folder, "PART_BYTES", 5 << 20)
    folder = ObjectFolder(f"{bucket}/deep/er")
    data = hashlib.shake_128(b"").digest(12 << 20)
    staged = folder.staging("a.tar")
    staged.write_bytes(data)
    folder.publish(staged, "a.tar")
    assert fsspec.filesystem("s3").info(f"{bucket}/deep/er/a.tar")["ETag"].endswith('-3"')
    assert folder.download("a.tar", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data
    assert not folder.download("b.tar", tmp_path / "b")


def test_gs_large_file_goes_up_in_parts_and_comes_back(
    gcs_bucket: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_folder, "PART_BYTES", 1 << 20)
    folder = ObjectFolder(f"{gcs_bucket}/deep/er")
    data = hashlib.shake_128(b"").digest(6 << 20)
    staged = folder.staging("a.tar")
    staged.write_bytes(data)
    folder.publish(staged, "a.tar")
    assert folder.download("a.tar", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data
    assert not folder.download("b.tar", tmp_path / "b")


def test_gs_names_older_than_knows_the_time(
    gcs_bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = ObjectFolder(gcs_bucket)
    folder.write("a", b"")
    assert folder.names_older_than(60) == []
    now = object_folder.time.time()
    monkeypatch.setattr(object_folder.time, "time", lambda: now + 100)
    assert folder.names_older_than(60) == ["a"]


def test_s3_bucket_that_is_not_there_is_refused_naming_it(bucket: str) -> None:
    folder = ObjectFolder("s3://no-such-bucket-of-ours/d")
    assert folder.read("a") is None
    assert folder.names() == []
    with pytest.raises(DataError, match=r"s3://no-such-bucket-of-ours/d/a: the store refused or did not answer"):
        folder.write("a", b"x")
    with pytest.raises(DataError, match=r"s3://no-such-bucket-of-ours/d/a: the store refused or did not answer"):
        folder.create("a", b"x")


def _read_in_child(folder: ObjectFolder, answer: Any) -> None:
    answer.send(folder.read("a"))


def test_s3_folder_made_before_a_fork_works_after_it(bucket: str) -> None:
    folder = ObjectFolder(bucket)
    folder.write("a", b"x")
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(folder, there))
    child.start()
    assert here.poll(30)
    assert here.recv() == b"x"
    child.join(30)
    assert child.exitcode == 0
