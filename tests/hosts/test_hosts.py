"""A run on separate hosts, one of which is cut off in mid-run and comes back: exact, and its late writes do not count.

`make test-cluster` runs these; they need root, for network namespaces.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.end_to_end.headrace import events, newest_step, records, run_file, wait_until
from tests.faults.ray_nodes import believed, places
from tests.hosts.hosts import hosts, start_ray

pytestmark = [pytest.mark.hosts, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = [sys.executable, "-m", "cluster.cli"]
STEPS = 160
GANG_SECONDS = 240


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="hr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def file_of(folder: Path, name: str) -> Path:
    return run_file(
        folder,
        name,
        train={"max_steps": STEPS, "global_batch_size": 8, "micro_batch_size": 2, "lr": 3e-3},
        checkpoint={"interval": 20},
    )


def test_hosts_run_with_one_cut_off_and_back_is_exactly_the_undisturbed_one(tmp_path: Path, ray_folder: Path) -> None:
    calm, rough = file_of(tmp_path, "calm"), file_of(tmp_path, "rough")
    out_dir, log = tmp_path / "runs/rough", tmp_path / "driver.log"
    with hosts(4, tmp_path) as cluster:
        head = cluster[0]
        address = start_ray(cluster, ray_folder, tmp_path / "ray.log")
        assert head.start([*COMMAND, "train", calm, "--address", address], log).wait(GANG_SECONDS) == 0, log.read_text()

        driver = head.start([*COMMAND, "train", rough, "--address", address], log)
        wait_until(lambda: newest_step(out_dir) >= 30, "step 30", GANG_SECONDS)
        lost = next(host for host in cluster if host.address == places(out_dir)[1]["address"])
        before = newest_step(out_dir)
        lost.cut_off()
        wait_until(lambda: events(out_dir, "gang_restart"), "another gang", GANG_SECONDS)
        wait_until(lambda: newest_step(out_dir) > before + 5, "its steps", GANG_SECONDS)
        assert lost.address not in {place["address"] for place in places(out_dir).values()}
        lost.join()
        assert driver.wait(GANG_SECONDS) == 0, log.read_text()
    for field in ("sequence_hash", "loss_hex"):
        assert believed(out_dir, field) == believed(tmp_path / "runs/calm", field)
    [restart] = events(out_dir, "gang_restart")
    assert (restart["kind"], restart["world_size"]) == ("loss", 2)
    attempts = {record["attempt"] for record in records(out_dir) if record.get("step", 0) > before + 5}
    assert attempts == {restart["attempt"] + 1}


def test_doctor_of_hosts_measures_each_link_and_names_the_host_that_does_not_see_the_folder(
    tmp_path: Path, ray_folder: Path
) -> None:
    file, answer = file_of(tmp_path, "calm"), tmp_path / "answer.json"
    out_dir = tmp_path / "runs/calm"
    out_dir.mkdir(parents=True)
    with hosts(3, tmp_path) as cluster:
        cluster[2].own.append(out_dir)
        address = start_ray(cluster, ray_folder, tmp_path / "ray.log")
        words = [*COMMAND, "doctor", str(file), "--address", address, "--json"]
        doctor = cluster[0].start(["sh", "-c", f'exec "$@" > {answer}', "sh", *words], tmp_path / "doctor.log")
        assert doctor.wait(GANG_SECONDS) == 1, (tmp_path / "doctor.log").read_text()
    told = json.loads(answer.read_text())
    [blind] = [finding for finding in told["findings"] if finding["level"] == "bad"]
    assert blind["check"] == f"folder {out_dir}"
    assert blind["found"] == f"not seen by {cluster[2].address}"
    levels = {finding["check"]: finding["level"] for finding in told["findings"]}
    assert levels["access"] == "ok"  # the cluster asks for a token
    addresses = [host.address for host in cluster]
    assert sorted(node["node"] for node in told["nodes"]) == addresses
    assert sorted(link["sender"] for link in told["links"]) == addresses
    assert all(link["bytes_per_second"] > 0 for link in told["links"])
