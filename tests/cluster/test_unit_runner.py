"""Units on a local Ray: the same bytes as without it, whatever happens to the processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ray_session import TRAIN_ENVIRONMENT, ray_session
from cluster.unit_runner import MAX_DEATHS, run_units_on_ray
from data_shards.errors import DataError
from data_shards.show import show
from data_shards.verify import verify
from tests.cluster.mortal_workers import DoomedWorker, DyingOnceWorker, FullDiskWorker, MortalWorker, on_ray
from tests.data_shards.corpora import prepare_lines, public_files, write_lines
from tests.data_shards.mortal_encoder import KILLS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """A local Ray with two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in TRAIN_ENVIRONMENT:
            patch.setenv(name, os.environ.get(name, ""))
        with ray_session(None, 2):
            yield


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Three files of lines, cut into eight units."""
    write_lines(tmp_path / "corpus/a.txt", range(150))
    write_lines(tmp_path / "corpus/b.txt", range(150, 180))
    write_lines(tmp_path / "corpus/c.txt", range(180, 300))
    return tmp_path


def put_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


def begun(log: Path) -> Counter[str]:
    """How often which unit was begun, in which way: "3 plain"."""
    return Counter(log.read_text().splitlines())


def test_units_on_ray_give_the_bytes_of_the_serial_way(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "serial")
    prepare_lines(base, tmp_path / "ray", run_units_on_ray)
    assert public_files(tmp_path / "ray") == public_files(tmp_path / "serial")


@pytest.mark.faults
def test_units_whose_worker_dies_are_run_again_and_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    prepare_lines(base, tmp_path / "serial")
    prepare_lines(base, tmp_path / "ray", on_ray(DyingOnceWorker, tmp_path / "log"))
    assert public_files(tmp_path / "ray") == public_files(tmp_path / "serial")
    assert sorted(path.name for path in tmp_path.glob("unit-*")) == ["unit-1", "unit-3", "unit-5", "unit-7"]
    assert begun(tmp_path / "log") == Counter(f"{number} plain" for number in range(8))


@pytest.mark.faults
def test_document_that_kills_its_worker_is_left_out_with_its_place(base: Path, tmp_path: Path) -> None:
    put_line(base / "corpus/a.txt", 70, f"some {KILLS} text")
    log = tmp_path / "log"
    dataset = prepare_lines(base, tmp_path / "d", on_ray(MortalWorker, log), on_bad_record="skip")
    [note] = [note for note in dataset.unit_notes.values() if note.skipped]
    assert note.skipped == {"killed its worker": 1}
    [place] = note.places
    assert place.where == f"{base}/corpus/a.txt:71"
    assert place.found.startswith("signal 9 (Killed)")
    [unit] = {line.split()[0] for line in begun(log) if line.endswith("careful")}
    assert begun(log)[f"{unit} plain"] == MAX_DEATHS
    assert sum(begun(log).values()) == 8 + MAX_DEATHS

    assert verify(tmp_path / "d").problems == ()
    splits = {name: sum(shard.documents for shard in dataset.split(name)) for name in ("train", "val")}
    texts = {show(dataset, number, name) for name, documents in splits.items() for number in range(documents)}
    lines = "".join((base / f"corpus/{name}.txt").read_text() for name in "abc").splitlines()
    assert texts == {line for line in lines if KILLS not in line}


@pytest.mark.faults
def test_document_that_kills_its_worker_is_refused_with_its_place_under_fail(base: Path, tmp_path: Path) -> None:
    put_line(base / "corpus/c.txt", 3, KILLS)
    with pytest.raises(DataError, match=r"corpus/c\.txt:4: killed its worker: signal 9 \(Killed\)"):
        prepare_lines(base, tmp_path / "d", on_ray(MortalWorker, tmp_path / "log"))


def test_unit_that_kills_careful_workers_too_is_refused_with_its_file(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus/a\.txt: whatever reads it dies, 6 times now"):
        prepare_lines(base, tmp_path / "d", on_ray(DoomedWorker, tmp_path / "log"))


def test_failure_of_a_worker_is_raised_as_it_was(base: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: 'train-00001\.tar'"):
        prepare_lines(base, tmp_path / "d", on_ray(FullDiskWorker, tmp_path / "log"))
