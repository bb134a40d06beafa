import os
import socket
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from data_shards.errors import DataError
from data_shards.source_files import find, is_folder, open_source, read_bytes, read_range, state_of, states


def test_find_file_gives_its_size_and_time_of_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", ns=(7, 7))
    (state,) = find(str(tmp_path / "a")).values()
    assert (state.size, state.version) == (3, "7")


@pytest.mark.parametrize("look", [find, is_folder])
def test_path_that_cannot_be_looked_at_is_refused(tmp_path: Path, look: Callable[[str], object]) -> None:
    with pytest.raises(DataError, match=r"a: cannot be read \(File name too long\): correct or leave out"):
        look(str(tmp_path / ("a" * 300)))


def test_states_of_local_and_remote_files_that_are_there_or_gone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    for name in ("a", "b"):
        fsspec.filesystem("memory").pipe_file(f"/states/{name}", b"12")
    paths = [str(tmp_path / "a"), str(tmp_path / "b"), *(f"memory:///states/{name}" for name in "abc")]
    found = states(paths)
    assert [None if state is None else state.size for state in (found[path] for path in paths)] == [3, None, 2, 2, None]
    assert state_of("memory:///states/a") == found["memory:///states/a"]
    with pytest.raises(DataError, match=r"memory:///states/c: cannot be read \(No such file"):
        state_of("memory:///states/c")


def test_read_range_beyond_the_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_range(str(tmp_path / "a"), 1, 3) == b"234"
    with pytest.raises(DataError, match="a: 2 bytes shorter than"):
        read_range(str(tmp_path / "a"), 3, 4)


def test_read_bytes_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_bytes(str(tmp_path))


@pytest.mark.slow
def test_s3_files_are_found_looked_at_and_read(bucket: str) -> None:
    store = fsspec.filesystem("s3")
    data = bytes(range(256)) * 40_000
    for name in ("en/a.txt", "en/b.txt", "zh/c.txt", "en/.hidden.txt"):
        store.pipe_file(f"{bucket}/{name}", data)
    found = find(f"{bucket}/**/*.txt")
    assert list(found) == [f"{bucket}/en/a.txt", f"{bucket}/en/b.txt", f"{bucket}/zh/c.txt"]
    assert {state.size for state in found.values()} == {len(data)}
    assert states(found) == found  # a listing and a request for one file tell the same version
    assert find(f"{bucket}/en/a.txt") == {f"{bucket}/en/a.txt": found[f"{bucket}/en/a.txt"]}
    assert (is_folder(f"{bucket}/en"), is_folder(f"{bucket}/en/a.txt")) == (True, False)
    with open_source(f"{bucket}/en/a.txt") as file:
        file.seek(5_000_000)
        assert file.read(10) == data[5_000_000:5_000_010]
        file.seek(3)
        assert file.read(6_000_000) == data[3:6_000_003]
    assert read_bytes(f"{bucket}/zh/c.txt") == data
    store.pipe_file(f"{bucket}/en/b.txt", data[:-1] + b"x")
    changed = states(found)
    assert [path for path in found if changed[path] != found[path]] == [f"{bucket}/en/b.txt"]


@pytest.mark.slow
def test_s3_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    assert find(f"{bucket}-gone/*.txt") == {}
    with pytest.raises(DataError, match=r"gone/a\.txt: cannot be read \("):
        read_bytes(f"{bucket}-gone/a.txt")


@pytest.mark.slow
def test_s3_server_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, endpoint)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "other")
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(DataError, match=r"s3://some-bucket/a\.txt: cannot be read \("):
            find("s3://some-bucket/a.txt")
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize("address", ["gopher://host/a.txt", "pipe:cat x://y", "x y://host/a"])
def test_address_of_an_unknown_scheme_is_refused(address: str) -> None:
    with pytest.raises(DataError, match="no file system is known"):
        find(address)
