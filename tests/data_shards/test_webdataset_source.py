import io
import json
import pickle
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest
import webdataset
import zstandard

from data_shards import webdataset_source
from data_shards.batches import TextBatch
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.source_files import find
from data_shards.sources import Compression, SourceFile
from data_shards.webdataset_source import ranges, read
from tests.data_shards.reading import documents_of

TEXTS = [f"text {number} 三国\r\n" * (1 + number % 5) for number in range(150)]


def source(path: Path | str, field: str = "", compression: Compression = "") -> SourceFile:
    return SourceFile(str(path), "webdataset", compression, field, "")


def texts_of(file: SourceFile, rejects: Rejects | None = None, unit_bytes: int = 1 << 40) -> list[str]:
    rejects = rejects or Rejects("fail")
    stretches = ranges(file, unit_bytes)
    return [text for start, end, _ in stretches for text in documents_of(read(file, start, end, rejects))]


def written(path: Path, samples: list[dict[str, Any]]) -> Path:
    with webdataset.TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:06d}", **sample})
    return path


def tar_of(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_texts_come_in_the_order_of_the_tar(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", [{"txt": text} for text in TEXTS])
    assert texts_of(source(path)) == TEXTS


def test_webdataset_json_members_and_texts_may_be_mixed(tmp_path: Path) -> None:
    members = [
        ("d/1.txt", b"one"),
        ("d/2.json", json.dumps({"text": "two", "title": "zwei"}, indent=1).encode()),
        ("d/3.txt", b"three"),
        ("d/3.json", b'{"title": "drei"}'),
        ("d/4.JSON", b'{"text": "four", "title": "vier"}'),
    ]
    path = tar_of(tmp_path / "a.tar", members)
    assert texts_of(source(path)) == ["one", "two", "three", "four"]
    assert texts_of(source(path, field="title")) == ["one", "zwei", "drei", "vier"]


def test_webdataset_other_members_are_left_alone_and_never_unpickled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    members = [("1.pkl", pickle.dumps(Trap())), ("1.txt", b"one"), ("1.jpg", b"\xff\xd8"), ("README", b"x")]
    path = tar_of(tmp_path / "a.tar", [*members, ("__meta__/1.json", b"{}"), ("2.pyd", b"x"), ("2.txt", b"two")])
    with caplog.at_level("INFO"):
        assert texts_of(source(path)) == ["one", "two"]
    assert caplog.messages == [f"{path}: 4 members that hold no text are left alone"]
    assert not (tmp_path / "sprung").exists()


def test_webdataset_is_asked_with_its_security_enforced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    expander = webdataset.tariterators.tar_file_expander

    def watch(*args: Any, **options: Any) -> Any:
        for member in expander(*args, **options):
            seen.append(webdataset.utils.enforce_security)
            yield member

    monkeypatch.setattr(webdataset.tariterators, "tar_file_expander", watch)
    assert texts_of(source(written(tmp_path / "a.tar", [{"txt": "one"}]))) == ["one"]
    assert seen == [True]
    assert not webdataset.utils.enforce_security


def test_webdataset_address_like_path_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="pipe:touch sprung: cannot be read"):
        documents_of(read(source("pipe:touch sprung"), 0, 1, Rejects("fail")))
    assert not (tmp_path / "sprung").exists()


def test_webdataset_text_with_two_dots_in_its_name_is_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar_of(tmp_path / "a.tar", [("v1.2/a.txt", b"read"), ("b.en.txt", b"not read")])
    assert texts_of(source(path)) == ["read"]
    assert caplog.messages == [f"{path}: b.en.txt is left alone: its name has a dot before .txt or .json"]


@pytest.mark.parametrize("unit_bytes", [1, 3000, 20_000])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_webdataset_ranges_cut_between_samples_alone(tmp_path: Path, unit_bytes: int, form: int) -> None:
    long = "" if form == tarfile.USTAR_FORMAT else "三国/" * 40 + "x" * 120
    members = []
    for number in range(60):
        key = f"folder/{long if number % 3 == 0 else ''}{number:03d}"
        members += [(f"{key}.txt", f"text {number}".encode() * 40), (f"{key}.jpg", b"\0" * 700)]
        members += [(f"{key}.json", b'{"text": "not taken"}')]
    path = tar_of(tmp_path / "a.tar", members, form)
    stretches = ranges(source(path), unit_bytes)
    assert stretches[0][0] == 0 and stretches[-1][1] == path.stat().st_size
    assert all(before[1] == after[0] for before, after in pairwise(stretches))
    assert len(stretches) == (60 if unit_bytes == 1 else len(stretches))
    assert len(stretches) > 5
    assert texts_of(source(path), unit_bytes=unit_bytes) == [f"text {number}" * 40 for number in range(60)]


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_webdataset_compressed_tar_is_one_range(tmp_path: Path, compression: Compression) -> None:
    path = written(tmp_path / "a.tar", [{"txt": text} for text in TEXTS])
    packed = tmp_path / "a.tar.gz"
    if compression == "gz":
        written(packed, [{"txt": text} for text in TEXTS])
    else:
        packed.write_bytes(zstandard.compress(path.read_bytes()))
    file = source(packed, compression=compression)
    assert len(ranges(file, 100)) == 1
    assert texts_of(file) == TEXTS


def test_webdataset_remote_tar_gives_the_same_texts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", [{"txt": text} for text in TEXTS])
    fsspec.filesystem("memory").pipe_file("/tars/a.tar", path.read_bytes())
    assert find("memory://tars/*.tar")
    file = source("memory://tars/a.tar")
    assert len(ranges(file, 100)) == 1
    assert texts_of(file) == TEXTS


@pytest.mark.parametrize("unit_bytes", [1 << 40, 10_000])
def test_webdataset_tar_that_is_cut_anywhere_is_refused(tmp_path: Path, unit_bytes: int) -> None:
    whole = written(tmp_path / "whole.tar", [{"txt": text} for text in TEXTS]).read_bytes()
    path = tmp_path / "a.tar"
    borders = [512 * 3 * 130, len(whole) // 2, 512 * 7, 512 * 8 + 17, 200, 0]
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in [*borders, end]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"a\.tar: cut off after {size} bytes: get the file anew\Z"):
            texts_of(source(path), Rejects("skip"), unit_bytes)


def test_webdataset_damaged_header_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", [{"txt": text} for text in TEXTS])
    data = bytearray(path.read_bytes())
    place = data.index(b"000100.txt")
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=rf"\A\S*a\.tar: damaged tar at byte {place} \(bad checksum\): get the file anew\Z"
    ):
        texts_of(source(path))


def test_webdataset_joined_tars_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "one.tar", [{"txt": "one"}]).read_bytes()
    (tmp_path / "a.tar").write_bytes(one + one)
    with pytest.raises(DataError, match=rf"a\.tar: holds data after its end mark, at byte {len(one)}"):
        texts_of(source(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("member", "reason", "found"),
    [
        (("2.txt", b"ab\n\xff"), "invalid UTF-8", "byte 1 of the line, 0xff"),
        (("2.json", b'{"text": 7}'), "field text is no string", "int 7"),
        (("2.json", b'{"body": "x"}'), "no field text", "keys body"),
        (("2.json", b"{"), "not JSON", ""),
        (("1.txt", b"again"), "two members of one name in a sample", "1.txt: duplicate file name"),
    ],
)
def test_webdataset_bad_sample_is_refused_or_left_out(
    tmp_path: Path, member: tuple[str, bytes], reason: str, found: str
) -> None:
    path = tar_of(tmp_path / "a.tar", [("1.txt", b"one"), member, ("3.txt", b"three")])
    with pytest.raises(DataError, match=rf"a\.tar.*{reason}: .*{found}"):
        texts_of(source(path))
    rejects = Rejects("skip")
    assert texts_of(source(path), rejects) == ["one", "three"]
    assert rejects.skipped == {reason: 1}


def test_webdataset_empty_samples_are_counted(tmp_path: Path) -> None:
    members = [("1.txt", b""), ("2.json", b'{"text": ""}'), ("3.json", b" \n"), ("4.txt", b"x")]
    rejects = Rejects("fail")
    assert texts_of(source(tar_of(tmp_path / "a.tar", members)), rejects) == ["x"]
    assert rejects.empty == 3


def test_webdataset_member_too_large_to_be_held_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset_source, "_LARGEST_MEMBER_BYTES", 1000)
    members = [("1.txt", b"x" * 1000), ("2.txt", b"x" * 1001), ("2.jpg", b"x" * 5000), ("3.txt", b"x")]
    path = tar_of(tmp_path / "a.tar", members)
    rejects = Rejects("skip")
    assert texts_of(source(path), rejects) == ["x" * 1000, "x"]
    assert [(place.where, place.reason) for place in rejects.places] == [(f"{path}: 2.txt", "member too large")]
    with pytest.raises(DataError, match=r"a\.tar: 2\.txt: member too large: 1001 bytes, more than 1000"):
        texts_of(source(path))


def test_webdataset_batches_name_their_samples(tmp_path: Path) -> None:
    long = "long words " * 200_000
    path = written(tmp_path / "a.tar", [{"txt": "one"}, {"txt": ""}, {"txt": long}, {"json": {"text": long}}])
    seen = []
    for batch in read(source(path), 0, path.stat().st_size, Rejects("fail")):
        assert isinstance(batch, TextBatch) and batch.place is not None
        seen += [batch.place(i) for i in range(len(batch.texts))]
    assert list(dict.fromkeys(seen)) == [f"{path}: 000000", f"{path}: 000002", f"{path}: 000003"]
    assert texts_of(source(path)) == ["one", long, long]


def test_webdataset_names_that_leave_the_folder_are_names_and_nothing_is_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    path = folder / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../climbed.txt", "/tmp/../absolute.txt", "plain.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    assert texts_of(source(path)) == ["../../climbed.txt", "/tmp/../absolute.txt", "plain.txt"]
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
