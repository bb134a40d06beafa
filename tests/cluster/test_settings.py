from __future__ import annotations

import pytest

from cluster.errors import ClusterError
from cluster.settings import ClusterSettings, Resources, check_fits, parse_cluster, resolve_resources
from trainer.errors import TrainError


@pytest.mark.parametrize(
    ("section", "gpus", "cores", "expected"),
    [
        ({}, 0, 2, Resources(workers=2, min_workers=2, gpus_per_worker=0, cpus_per_worker=1, threads=1)),
        ({}, 4, None, Resources(workers=4, min_workers=4, gpus_per_worker=1, cpus_per_worker=1, threads=1)),
        ({"workers": 1}, 0, 8, Resources(workers=1, min_workers=1, gpus_per_worker=0, cpus_per_worker=1, threads=8)),
        ({"workers": 3}, 0, 2, Resources(workers=3, min_workers=3, gpus_per_worker=0, cpus_per_worker=1, threads=1)),
        (
            {"cpus_per_worker": 4},
            0,
            None,
            Resources(workers=2, min_workers=2, gpus_per_worker=0, cpus_per_worker=4, threads=4),
        ),
        (
            {"workers": [1, 4]},
            0,
            8,
            Resources(workers=4, min_workers=1, gpus_per_worker=0, cpus_per_worker=1, threads=2),
        ),
        (
            {"workers": [2, 3]},
            8,
            None,
            Resources(workers=3, min_workers=2, gpus_per_worker=1, cpus_per_worker=1, threads=1),
        ),
        (
            {"gpus_per_worker": 0},
            4,
            8,
            Resources(workers=2, min_workers=2, gpus_per_worker=0, cpus_per_worker=1, threads=4),
        ),
    ],
)
def test_resources_auto_follows_the_cluster(
    section: dict[str, int], gpus: int, cores: int | None, expected: Resources
) -> None:
    assert resolve_resources(ClusterSettings.model_validate(section), gpus, cores) == expected


def test_resources_that_the_cluster_has_fit() -> None:
    check_fits(Resources(workers=4, min_workers=4, gpus_per_worker=1, cpus_per_worker=2, threads=2), cpus=8, gpus=4)


def test_resources_of_an_elastic_gang_fit_where_its_fewest_workers_do() -> None:
    elastic = Resources(workers=4, min_workers=2, gpus_per_worker=0, cpus_per_worker=2, threads=2)
    check_fits(elastic, cpus=4, gpus=0)
    with pytest.raises(ClusterError, match=r"2 workers of 2 CPUs need 4, and the cluster has 3"):
        check_fits(elastic, cpus=3, gpus=0)


@pytest.mark.parametrize("value", [[4, 1], [0, 2], [1], [1, 2, 3], ["1", 2], [], 0])
def test_range_of_workers_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(TrainError, match=r"cluster\.workers: must be"):
        parse_cluster({"workers": value}, "run.yaml")


@pytest.mark.parametrize(("workers", "worlds"), [(3, [3]), ("auto", [1]), ([2, 4], [2, 3, 4])])
def test_worlds_are_the_numbers_of_workers_that_the_run_file_allows(workers: object, worlds: list[int]) -> None:
    assert list(parse_cluster({"workers": workers}, "run.yaml").worlds) == worlds


@pytest.mark.parametrize(("cpus", "gpus", "what"), [(7, 4, "2 CPUs need 8"), (8, 0, "1 GPUs need 4")])
def test_resources_beyond_the_cluster_are_refused_with_both_numbers(cpus: int, gpus: int, what: str) -> None:
    with pytest.raises(ClusterError, match=rf"cluster\.workers: 4 workers of {what}, and the cluster has"):
        check_fits(Resources(workers=4, min_workers=4, gpus_per_worker=1, cpus_per_worker=2, threads=2), cpus, gpus)


def test_section_with_a_misspelt_field_names_the_sections_own() -> None:
    with pytest.raises(TrainError, match=r"cluster\.worker: unknown field\. Did you mean 'workers'"):
        parse_cluster({"worker": 2}, "run.yaml")


@pytest.mark.parametrize(("given", "expected"), [({}, "auto"), ({"hang_seconds": 2}, 2.0)])
def test_section_hang_seconds_is_a_number_or_auto(given: dict[str, int], expected: float | str) -> None:
    assert parse_cluster(given, "run.yaml").hang_seconds == expected


@pytest.mark.parametrize("seconds", [0.5, "soon"])
def test_section_hang_seconds_shorter_than_a_rank_shows_is_refused(seconds: float | str) -> None:
    with pytest.raises(TrainError, match=r"cluster\.hang_seconds: must be a number of seconds from 1 on, or auto"):
        parse_cluster({"hang_seconds": seconds}, "run.yaml")
