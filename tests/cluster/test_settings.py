from __future__ import annotations

import pytest

from cluster.errors import ClusterError
from cluster.settings import ClusterSettings, Resources, check_fits, parse_cluster, resolve_resources
from trainer.errors import TrainError


@pytest.mark.parametrize(
    ("section", "gpus", "cores", "expected"),
    [
        ({}, 0, 2, Resources(workers=2, gpus_per_worker=0, cpus_per_worker=1, threads=1)),
        ({}, 4, None, Resources(workers=4, gpus_per_worker=1, cpus_per_worker=1, threads=1)),
        ({"workers": 1}, 0, 8, Resources(workers=1, gpus_per_worker=0, cpus_per_worker=1, threads=8)),
        ({"workers": 3}, 0, 2, Resources(workers=3, gpus_per_worker=0, cpus_per_worker=1, threads=1)),
        ({"cpus_per_worker": 4}, 0, None, Resources(workers=2, gpus_per_worker=0, cpus_per_worker=4, threads=4)),
        ({"gpus_per_worker": 0}, 4, 8, Resources(workers=2, gpus_per_worker=0, cpus_per_worker=1, threads=4)),
    ],
)
def test_resources_auto_follows_the_cluster(
    section: dict[str, int], gpus: int, cores: int | None, expected: Resources
) -> None:
    assert resolve_resources(ClusterSettings.model_validate(section), gpus, cores) == expected


def test_resources_that_the_cluster_has_fit() -> None:
    check_fits(Resources(workers=4, gpus_per_worker=1, cpus_per_worker=2, threads=2), cpus=8, gpus=4)


@pytest.mark.parametrize(("cpus", "gpus", "what"), [(7, 4, "2 CPUs need 8"), (8, 0, "1 GPUs need 4")])
def test_resources_beyond_the_cluster_are_refused_with_both_numbers(cpus: int, gpus: int, what: str) -> None:
    with pytest.raises(ClusterError, match=rf"cluster\.workers: 4 workers of {what}, and the cluster has"):
        check_fits(Resources(workers=4, gpus_per_worker=1, cpus_per_worker=2, threads=2), cpus, gpus)


def test_section_with_a_misspelt_field_names_the_sections_own() -> None:
    with pytest.raises(TrainError, match=r"cluster\.worker: unknown field\. Did you mean 'workers'"):
        parse_cluster({"worker": 2}, "run.yaml")
