"""What every kind of folder keeps to: on the file system, in memory, on an S3 and a Google Cloud Storage server."""

import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.storage import Folder, LocalFolder, open_folder
from tests.data_shards.gcs import gcs_bucket  # noqa: F401  a fixture

KINDS = ("local", "memory", "s3", "gs")


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    make: dict[str, Callable[[], str]] = {
        "local": lambda: str(tmp_path / "d"),
        "memory": lambda: f"memory://{uuid.uuid4().hex}/d",
        "s3": lambda: f"{request.getfixturevalue('bucket')}/d",
        "gs": lambda: f"{request.getfixturevalue('gcs_bucket')}/d",
    }
    return open_folder(make[request.param]())


def test_folder_that_holds_nothing_says_so(folder: Folder) -> None:
    assert folder.read("a") is None
    assert folder.size("a") is None
    assert folder.names() == []
    folder.remove("a", "b/c")


def test_folder_written_file_is_there_at_once_and_replaced_whole(folder: Folder) -> None:
    folder.write("a/b.json", b"one")
    assert folder.read("a/b.json") == b"one"
    folder.write("a/b.json", b"three")
    assert (folder.read("a/b.json"), folder.size("a/b.json")) == (b"three", 5)
    assert folder.read("a") is None
    assert folder.size("a") is None
    folder.remove("a/b.json")
    assert folder.read("a/b.json") is None


def test_folder_sizes_are_sorted_and_leave_hidden_names_out_unless_asked_for(folder: Folder) -> None:
    for name in ("b", "a", "v/2/x", "v/10/x", "v/2/.y", ".h/k", ".h/.l", "versions/z"):
        folder.write(name, name.encode())
    assert folder.sizes() == {"a": 1, "b": 1, "v/10/x": 6, "v/2/x": 5, "versions/z": 10}
    assert list(folder.sizes()) == folder.names()
    assert folder.names("v/") == ["v/10/x", "v/2/x"]
    assert folder.names("v") == ["v/10/x", "v/2/x", "versions/z"]
    assert folder.names("v/2") == ["v/2/x"]
    assert folder.names(".h/") == [".h/k"]
    assert folder.names("none/") == []


def test_local_folder_sizes_pass_over_folders_that_are_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = LocalFolder(tmp_path), os.scandir
    folder.write("a", b"1")
    (tmp_path / "b").mkdir()

    def scandir(path: str) -> object:
        if Path(path) == tmp_path / "b":  # another process is faster
            (tmp_path / "b").rmdir()
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert folder.sizes() == {"a": 1}


def test_folder_removes_many_of_which_some_are_gone(folder: Folder) -> None:
    for number in range(5):
        folder.write(f"r/{number}", b"x")
    folder.remove("r/1", "r/9", "r/3")
    assert folder.names() == ["r/0", "r/2", "r/4"]


def test_folder_create_makes_a_file_once(folder: Folder) -> None:
    assert folder.create("c/000001.json", b"mine")
    assert not folder.create("c/000001.json", b"yours")
    assert folder.read("c/000001.json") == b"mine"


def test_folder_published_file_appears_whole_and_its_draft_is_gone(folder: Folder, tmp_path: Path) -> None:
    staged = folder.staging("train-00000.tar")
    staged.write_bytes(b"shard")
    assert folder.names() == []
    folder.publish(staged, "train-00000.tar")
    assert folder.read("train-00000.tar") == b"shard"
    assert not staged.exists()


@pytest.mark.parametrize("kind", ["local", "s3", "gs"])
def test_folder_create_by_many_at_once_succeeds_for_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    buckets = {"s3": "bucket", "gs": "gcs_bucket"}
    address = str(tmp_path / "d") if kind == "local" else f"{request.getfixturevalue(buckets[kind])}/d"
    start = threading.Barrier(8)

    def try_all(writer: int) -> list[int]:
        folder = open_folder(address)
        start.wait()
        return [number for number in range(10) if folder.create(f"n/{number}", f"{writer}".encode())]

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(try_all, range(8)))
    assert sorted(number for numbers in won for number in numbers) == list(range(10))
    folder = open_folder(address)
    for writer, numbers in enumerate(won):
        assert {folder.read(f"n/{number}") for number in numbers} <= {f"{writer}".encode()}


def test_open_folder_of_a_path_is_local_and_of_an_address_is_not(tmp_path: Path) -> None:
    assert isinstance(open_folder(tmp_path), LocalFolder)
    assert open_folder(str(tmp_path)).address == str(tmp_path)
    assert open_folder("memory://a/b/").address == "memory://a/b"


def test_open_folder_of_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(DataError, match=r"nope://x: no file system is known for nope://"):
        open_folder("nope://x")
