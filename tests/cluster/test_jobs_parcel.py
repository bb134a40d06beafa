"""What travels with a job, and what never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import ClusterError
from cluster.jobs.order import Errand, RunOrder, read_order, write_order
from cluster.jobs.parcel import LARGEST_BYTES, Parcel, code_files, make_parcel
from cluster.jobs.submission import chosen_environment
from cluster.jobs.submitted import RUN_FILE
from tests.cluster.jobs_world import ticket
from trainer.config import dump_run_file, load_run_file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project: a corpus, a tokenizer in a folder that has a name of ours, secrets, git and runs."""
    folder = tmp_path / "project"
    for name in ("corpus/a.txt", "model/tokenizer.json", "model/__init__.py", ".env", "keys/server.pem", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"planted in {name}")
    (folder / "runs/demo").mkdir(parents=True)
    (folder / "runs/demo/run.json").write_text("{}")
    return folder


def parcel_of(project: Path, **data: Any) -> Parcel:
    document = {
        "data": {"sources": ["corpus/*.txt"], "tokenizer": "model/tokenizer.json", **data},
        "model": {"preset": "gpt2-tiny"},
        "train": {"max_steps": 1, "global_batch_size": 2, "lr": 0.001},
    }
    file = project / "demo.yaml"
    file.write_text(yaml.safe_dump(document))
    config = load_run_file(file)
    return make_parcel(config, project, yaml.safe_load(dump_run_file(config)))


def test_parcel_has_the_run_file_and_the_small_files_that_it_names(project: Path, tmp_path: Path) -> None:
    parcel = parcel_of(project)
    assert parcel.files == {"model/tokenizer.json": project / "model/tokenizer.json"}
    parcel.write(tmp_path / "code", tmp_path / "files")
    sent = sorted(str(path.relative_to(tmp_path / "files")) for path in (tmp_path / "files").rglob("*.*"))
    assert sent == [RUN_FILE, "model/tokenizer.json"]
    assert not any("planted" in path.read_text() for path in (tmp_path / "code").rglob("*.py"))


def test_parcel_s_run_file_is_the_same_run_wherever_it_is_unpacked(project: Path, tmp_path: Path) -> None:
    parcel_of(project).write(tmp_path / "code", tmp_path / "files")
    here, there = load_run_file(project / "demo.yaml"), load_run_file(tmp_path / "files" / RUN_FILE)
    assert there.data.tokenizer == str(tmp_path / "files/model/tokenizer.json")
    assert there.model_copy(update={"data": here.data}) == here
    assert there.data.model_copy(update={"tokenizer": here.data.tokenizer}) == here.data


def test_parcel_lists_what_it_has_with_sizes_and_what_stays(project: Path) -> None:
    lines = parcel_of(project).lines()
    assert "  file  model/tokenizer.json 0.0 kB" in lines
    assert [line.split()[1] for line in lines if "code" in line] == [
        *("cluster", "trainer", "data_shards", "model", "monitoring")
    ]
    assert f"  not sent, every node must see it: data.sources {project}/corpus/*.txt" in lines


def test_parcel_has_our_code_alone() -> None:
    names = {path.name for paths in code_files().values() for path in paths}
    assert {"cli.py", "gpt.py", "entry.py", "py.typed"} <= names
    assert all(path.suffix == ".py" or path.name == "py.typed" for paths in code_files().values() for path in paths)
    assert not any("tests" in path.parts or "__pycache__" in path.parts for p in code_files().values() for path in p)


def test_parcel_takes_a_named_folder_without_its_secrets(project: Path) -> None:
    tokenizer = project / "tokenizer"
    for name in ("tokenizer.json", ".env", "server.key", "sub/merges.txt"):
        (tokenizer / name).parent.mkdir(parents=True, exist_ok=True)
        (tokenizer / name).write_text("x")
    (tokenizer / "outside.txt").symlink_to("/etc/hostname")
    assert set(parcel_of(project, tokenizer="tokenizer").files) == {
        "tokenizer/tokenizer.json",
        "tokenizer/sub/merges.txt",
    }


@pytest.mark.parametrize("name", [".env", "keys/server.pem", ".git/config", "My-Secrets.json", "id_rsa"])
def test_parcel_refuses_a_secret_that_a_field_names(project: Path, name: str) -> None:
    (project / name).write_text("x")
    with pytest.raises(ClusterError, match=r"data.tokenizer: .* looks like a secret, and those are never sent"):
        parcel_of(project, tokenizer=name)


def test_parcel_refuses_files_that_are_too_large_together(project: Path) -> None:
    (project / "large.json").write_bytes(bytes(LARGEST_BYTES + 1))
    with pytest.raises(ClusterError, match=r"have 10.0 MB together, and at most 10 MB travel .* data.tokenizer"):
        parcel_of(project, tokenizer="large.json")


def test_parcel_leaves_files_outside_the_project_where_they_are(project: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("x")
    parcel = parcel_of(project, tokenizer=str(tmp_path / "tokenizer.json"))
    assert parcel.files == {}
    assert yaml.safe_load(parcel.run_file)["data"]["tokenizer"] == str(tmp_path / "tokenizer.json")


def test_parcel_takes_the_module_of_a_named_function(project: Path) -> None:
    (project / "my/hooks.py").parent.mkdir()
    (project / "my/hooks.py").write_text("x")
    config = load_run_file_of(project)
    parcel = make_parcel(config, project, {"callbacks": ["my.hooks:on_step", "other:thing"], "out_dir": "my.hooks:f"})
    assert parcel.files == {"my/hooks.py": project / "my/hooks.py"}
    assert yaml.safe_load(parcel.run_file)["callbacks"] == ["my.hooks:on_step", "other:thing"]


def load_run_file_of(project: Path) -> Any:
    parcel_of(project)
    return load_run_file(project / "demo.yaml")


@pytest.mark.parametrize(
    "order",
    [
        RunOrder(ticket(waits=True), "http://head:8265", commit="abc", accept_changes=True),
        Errand("cluster.jobs.look_at_run", ("status", "/runs/demo")),
    ],
)
def test_order_comes_back_from_its_file(tmp_path: Path, order: RunOrder | Errand) -> None:
    write_order(tmp_path, order)
    assert read_order(tmp_path) == order


def test_environment_has_the_variables_that_are_named_and_no_other() -> None:
    here = {"NCCL_DEBUG": "INFO", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "planted"}
    assert chosen_environment([], here) == {}
    assert chosen_environment(["NCCL_DEBUG"], here) == {"NCCL_DEBUG": "INFO"}
    with pytest.raises(ClusterError, match="--env ABSENT: must be a variable that is set here"):
        chosen_environment(["ABSENT"], here)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"])
def test_environment_refuses_secrets_without_a_word_of_their_value(name: str) -> None:
    with pytest.raises(ClusterError, match=f"--env {name}: looks like a secret") as refusal:
        chosen_environment([name], {name: "planted"})
    assert "planted" not in str(refusal.value)
