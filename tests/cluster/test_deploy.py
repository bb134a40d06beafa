"""The ways onto machines: what holds of their files without machines to run them on."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import build_parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster/deploy"
PAGES = {
    "ray-cluster.yaml": "ray-cluster.md",
    "raycluster.yaml": "kuberay.md",
    "rayjob.yaml": "kuberay.md",
    "Dockerfile": "docker.md",
    "headrace.sbatch": "slurm.md",
}
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text()


def document(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text_of(name)))


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = document(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> list[dict[str, Any]]:
    """The pods' specs of a cluster for KubeRay, the head's first."""
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def headrace_commands(text: str) -> list[list[str]]:
    """The words after `headrace` of each command line in a page's blocks or in a script."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) or [("", text)]
    lines = "\n".join(block for language, block in blocks if not language).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|\s|/)headrace\"? ([a-z][^'#]*)", line) for line in lines]
    return [shlex.split(match[1].removesuffix("&")) for match in found if match]


def test_every_file_has_a_page_that_the_list_names() -> None:
    found = {path.name for path in DEPLOY.iterdir()} - {"Dockerfile.dockerignore"}
    pages = {*PAGES.values(), "by-hand.md"}
    assert found == {*PAGES, *pages, "README.md"}
    assert all(f"({page})" in text_of("README.md") for page in pages)


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_page_says_what_each_value_to_fill_in_is(name: str, page: str) -> None:
    wanted = set(re.findall(r"FILL_IN_[A-Z]+", text_of(name)))
    assert {value for value in wanted if f"`{value}`" not in text_of(page)} == set()


@pytest.mark.parametrize("page", sorted({*PAGES.values(), "by-hand.md", "README.md"}))
def test_page_has_only_commands_and_links_that_exist(page: str) -> None:
    for words in headrace_commands(text_of(page)):
        build_parser().parse_args(words)
    for link in re.findall(r"\]\(([^):#]+)\)", text_of(page)):
        assert (DEPLOY / link).exists(), link


@pytest.mark.parametrize("page", sorted({*PAGES.values(), "by-hand.md"}))
def test_page_tells_of_shared_folder_object_store_tracking_server_and_token(page: str) -> None:
    for subject in ("out_dir", "s3://", "tracking_uri", "RAY_AUTH_MODE"):
        assert subject in text_of(page), subject


def test_launchers_file_is_valid_by_rays_own_rules() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = document("ray-cluster.yaml")
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="head_nod_type"):
        validate_config(prepare_config({**config, "head_nod_type": "head"}))


def test_launchers_nodes_all_ask_for_a_token_and_have_it() -> None:
    config = document("ray-cluster.yaml")
    starts = [
        line for part in ("head", "worker") for line in config[f"{part}_start_ray_commands"] if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ~/environment/bin/ray start" in line for line in starts)
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    assert {".git/", ".venv/", ".env*"} <= set(config["rsync_exclude"])


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kubernetes_pods_ask_for_a_token_share_a_folder_and_have_room_for_shared_memory(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["rayVersion"] == PINNED["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert len(pods(name)) == 2
    for pod in pods(name):
        [container] = pod["containers"]
        assert container["image"] == "FILL_IN_IMAGE"
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
            "shm": "/dev/shm",
            "shared": "/shared",
        }
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == "FILL_IN_CLAIM"
        assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kubernetes_files_hold_no_secret(name: str) -> None:
    for pod in pods(name):
        for container in pod["containers"]:
            assert {entry["name"] for entry in container["env"]} == {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"}
            assert container["envFrom"] == [{"secretRef": {"name": "headrace-secrets", "optional": True}}]


def test_kubernetes_job_runs_on_the_cluster_of_the_other_file() -> None:
    assert cluster_spec("rayjob.yaml") == cluster_spec("raycluster.yaml")
    program, *words = shlex.split(document("rayjob.yaml")["spec"]["entrypoint"])
    args = build_parser().parse_args(words)
    assert program == "headrace"
    assert (args.address, str(args.file)) == ("auto", "/shared/FILL_IN_RUN.yaml")


def test_image_takes_what_exists_and_neither_root_nor_a_secret() -> None:
    lines = [line.split() for line in text_of("Dockerfile").replace("\\\n", " ").splitlines() if line.strip()]
    taken = [name for words in lines if words[0] == "COPY" for name in words[1:-1]]
    assert {"cluster", "trainer", "data_shards", "model", "monitoring", "pyproject.toml"} <= set(taken)
    assert all((ROOT / name).exists() for name in taken)
    allowed = {line[1:] for line in text_of("Dockerfile.dockerignore").splitlines() if line.startswith("!")}
    assert allowed == set(taken)
    assert [words[1] for words in lines if words[0] == "USER"] == ["headrace"]
    assert not {words[0] for words in lines} & {"ADD", "ARG"}


def test_slurm_script_is_a_shells_and_hands_on_signals_and_requeues() -> None:
    checked = subprocess.run(["bash", "-n", DEPLOY / "headrace.sbatch"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    text = text_of("headrace.sbatch")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert options["signal"] == "B:TERM@300"
    assert options["open-mode"] == "append"
    assert "requeue" in options
    [words] = headrace_commands(text)
    assert build_parser().parse_args(words).address == "$address"


def test_slurm_script_that_was_not_filled_in_says_so(tmp_path: Path) -> None:
    done = subprocess.run(["bash", DEPLOY / "headrace.sbatch", "a.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "environment must be a folder with bin/headrace, found FILL_IN_ENVIRONMENT" in done.stderr
