"""Run folders and how they are found."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from monitoring.errors import MonitoringError
from monitoring.runs import RunFolder, create_run_folder, find_run, list_runs, new_run_id, read_run_folder


def test_create_run_folder_again_keeps_the_id_and_takes_the_new_run_file(tmp_path: Path) -> None:
    first = create_run_folder(tmp_path / "a", None, "demo", "train: {lr: 1}\n")
    again = create_run_folder(tmp_path / "a", "other-id", "other", "train: {lr: 2}\n")
    assert again == first == read_run_folder(tmp_path / "a")
    assert again.settings() == {"train": {"lr": 2}}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["run.json", "run.yaml"]


def test_create_run_folder_given_id_is_used(tmp_path: Path) -> None:
    run = create_run_folder(tmp_path, "job-7", "demo", "")
    assert json.loads((tmp_path / "run.json").read_text())["run_id"] == run.run_id == "job-7"


def test_create_run_folder_many_at_once_all_get_one_id(tmp_path: Path) -> None:
    found: list[RunFolder] = []
    threads = [
        threading.Thread(target=lambda: found.append(create_run_folder(tmp_path / "a", None, "demo", "a: 1\n")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert {run.run_id for run in found} == {read_run_folder(tmp_path / "a").run_id}


def test_new_run_id_is_new_each_time() -> None:
    assert len({new_run_id() for _ in range(1000)}) == 1000


def test_find_run_by_folder_folder_name_id_and_name(tmp_path: Path) -> None:
    run = create_run_folder(tmp_path / "runs" / "folder", "id-1", "name", "")
    create_run_folder(tmp_path / "runs" / "other", "id-2", "other name", "")
    for text in (str(tmp_path / "runs" / "folder"), "folder", "id-1", "name"):
        assert find_run(text, tmp_path / "runs").run_id == run.run_id


def test_find_run_by_the_id_of_a_job_that_was_submitted_for_it(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "one", "20260101-a", "one", "")
    assert find_run("20260101-a-12", tmp_path).name == "one"
    for text in ("20260101-a-", "20260101-a-x", "20260101-a1-1", "20260101-1"):
        with pytest.raises(MonitoringError):
            find_run(text, tmp_path)


def test_find_run_name_of_two_runs_names_both_folders(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "a", None, "same", "")
    create_run_folder(tmp_path / "b", None, "same", "")
    with pytest.raises(MonitoringError, match=r"'same'.*/a, .*/b; give the folder"):
        find_run("same", tmp_path)


def test_find_run_unknown_names_what_there_is(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "a", None, "demo", "")
    with pytest.raises(MonitoringError, match=r"RUN 'dmo'.*newest there: demo"):
        find_run("dmo", tmp_path)
    with pytest.raises(MonitoringError, match="newest there: none"):
        find_run("dmo", tmp_path / "absent")


def test_list_runs_oldest_first(tmp_path: Path) -> None:
    for name, created in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        create_run_folder(tmp_path / name, None, name, "")
        (tmp_path / name / "run.json").write_text(json.dumps({"run_id": name, "name": name, "created": created}))
    assert [run.name for run in list_runs(tmp_path)] == ["b", "c", "a"]


@pytest.mark.parametrize("text", ["{", "[]", '{"run_id": "a"}', '{"run_id": "a", "name": "b", "created": "x"}'])
def test_read_run_folder_broken_run_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(MonitoringError, match=r"run\.json: must be a JSON object with run_id"):
        read_run_folder(tmp_path)


def test_read_run_folder_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match=r"has no run\.json"):
        read_run_folder(tmp_path)


@pytest.mark.parametrize("text", ["a: [1", "- 1"])
def test_settings_run_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    run = create_run_folder(tmp_path, None, "demo", text)
    with pytest.raises(MonitoringError, match=r"run\.yaml: must be"):
        run.settings()
