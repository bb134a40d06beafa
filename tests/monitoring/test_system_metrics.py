"""A node's samples: what /proc and nvidia-smi say, put into MLflow's names, and their way to MLflow."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from monitoring.forward import Forwarder
from monitoring.journal import node_path, read_records
from monitoring.system_metrics import (
    Counters,
    NodeMonitor,
    disk_values,
    load_values,
    node_monitoring,
    parse_counters,
    parse_gpus,
    parse_memory,
    sample_record,
)
from tests.monitoring.journals import START_TIME, end, start, step, write_journal
from tests.monitoring.processes import wait_until
from tests.monitoring.stores import FakeRun

STAT = "cpu  100 10 50 800 40 0 0 0 30 0\ncpu0 1 2 3 4\n"
NET = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0
  eth0:5000000 1 0 0 0 0 0 0 7000000 1 0 0 0 0 0 0
  eth1: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0
"""


def test_counters_leave_out_idle_time_guests_and_the_loopback() -> None:
    assert parse_counters(STAT, NET) == Counters(160, 1000, 5_001_000, 7_002_000)


def test_load_is_of_the_time_since_the_sample_before_and_traffic_since_the_first() -> None:
    first, before, now = Counters(0, 0, 0, 0), Counters(100, 200, 10, 10), Counters(175, 300, 3_000_000, 500_000)
    assert load_values(first, before, now) == {
        "cpu_utilization_percentage": 75.0,
        "network_receive_megabytes": 3.0,
        "network_transmit_megabytes": 0.5,
    }
    assert load_values(first, now, now)["cpu_utilization_percentage"] == 0.0


def test_memory_is_what_no_new_program_could_have() -> None:
    text = "MemTotal:        2000000 kB\nMemFree:  10 kB\nMemAvailable:    500000 kB\nHugePages_Total:       0\n"
    assert parse_memory(text) == {
        "system_memory_usage_megabytes": 1536.0,
        "system_memory_usage_percentage": 75.0,
    }


def test_gpus_that_do_not_tell_something_are_shown_without_it() -> None:
    table = "0, 97, 40960, 81920, 412.50\n1, [N/A], 1024, 0, [Not Supported]\n"
    assert parse_gpus(table) == {
        "gpu_0_utilization_percentage": 97.0,
        "gpu_0_memory_usage_megabytes": 40960 * 1048576 / 1e6,
        "gpu_0_memory_usage_percentage": 50.0,
        "gpu_0_power_usage_watts": 412.5,
        "gpu_1_memory_usage_megabytes": 1024 * 1048576 / 1e6,
    }
    assert parse_gpus("") == {}


def test_sample_of_this_machine_is_plausible_and_costs_less_than_a_thousandth_of_its_interval(tmp_path: Path) -> None:
    monitor = NodeMonitor(tmp_path, ask_gpus=lambda: {"gpu_0_power_usage_watts": 5.0})
    began = time.thread_time()
    values = [monitor.sample() for _ in range(20)][-1]
    assert (time.thread_time() - began) / 20 < 0.001 * 10.0
    assert 0 <= values["cpu_utilization_percentage"] <= 100
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert values["disk_available_megabytes"] == pytest.approx(
        disk_values(tmp_path)["disk_available_megabytes"], rel=0.1
    )
    assert values["gpu_0_power_usage_watts"] == 5.0


def samples(out_dir: Path, node: str) -> list[dict[str, object]]:
    path = node_path(out_dir, node)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_node_is_sampled_by_one_process_and_by_the_next_once_that_is_gone(tmp_path: Path) -> None:
    with node_monitoring(tmp_path, "10.0.0.7", 0.02):
        wait_until(lambda: len(samples(tmp_path, "10.0.0.7")) >= 2)
    with node_monitoring(tmp_path, "10.0.0.7", 0.02), node_monitoring(tmp_path, "10.0.0.7", 0.02):
        seen = len(samples(tmp_path, "10.0.0.7"))
        wait_until(lambda: len(samples(tmp_path, "10.0.0.7")) >= seen + 4)
    found = samples(tmp_path, "10.0.0.7")
    times = [sample["time"] for sample in found]
    assert times == sorted(times)
    assert {sample["node"] for sample in found} == {"10.0.0.7"}
    assert list(read_records(tmp_path)) == []  # no attempt's journal grows by it


def test_node_is_not_sampled_where_nobody_asks_or_the_folder_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with node_monitoring(tmp_path, "n", None):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "journal").write_text("no folder")
    with caplog.at_level(logging.WARNING), node_monitoring(tmp_path, "n", 0.01):
        wait_until(lambda: "node n is not sampled" in caplog.text)


def write_samples(out_dir: Path, node: str, *values: float) -> None:
    with node_path(out_dir, node).open("a") as file:
        for number, value in enumerate(values):
            record = sample_record(node, {"cpu_utilization_percentage": value}, START_TIME + number)
            file.write(json.dumps(record) + "\n")


def test_samples_of_all_nodes_reach_mlflow_once_and_are_numbered_on_over_senders(tmp_path: Path) -> None:
    fake = FakeRun()
    write_journal(tmp_path, start(), step(1))
    write_samples(tmp_path, "10.0.0.7", 1.0, 2.0)
    write_samples(tmp_path, "10.0.0.8", 9.0)
    first = Forwarder(tmp_path, fake)  # type: ignore[arg-type]
    while first.forward():
        pass
    write_journal(tmp_path, end(1))
    write_samples(tmp_path, "10.0.0.7", 3.0)
    second = Forwarder(tmp_path, fake)  # type: ignore[arg-type]
    while second.forward():
        pass
    found = {(p.key, p.step): p.value for p in fake.points if p.key.startswith("system/")}
    cpu = "cpu_utilization_percentage"
    assert found == {
        (f"system/10.0.0.7/{cpu}", 0): 1.0,
        (f"system/10.0.0.7/{cpu}", 1): 2.0,
        (f"system/10.0.0.7/{cpu}", 2): 3.0,
        (f"system/10.0.0.8/{cpu}", 0): 9.0,
    }
    assert set(fake.times_stored().values()) == {1}
