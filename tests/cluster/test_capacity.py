from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from cluster.capacity import HeadGoneError, answers, check_head, workers_that_fit


@pytest.mark.parametrize(
    ("free", "per_worker", "fit"),
    [
        ({}, {"CPU": 1.0}, 0),
        ({"CPU": 3.0}, {"CPU": 1.0}, 3),
        ({"CPU": 3.9}, {"CPU": 2.0}, 1),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, 2),
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, 0),
        ({"CPU": 2.9999999}, {"CPU": 1.0}, 3),  # sums of fractions
    ],
)
def test_workers_that_fit_are_bound_by_the_scarcest_resource(
    free: dict[str, float], per_worker: dict[str, float], fit: int
) -> None:
    assert workers_that_fit(free, per_worker) == fit


def test_address_answers_while_something_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers("127.0.0.1", port)
    assert not answers("127.0.0.1", port)


@pytest.mark.parametrize(("error", "refused"), [(ConnectionRefusedError(), True), (TimeoutError("timed out"), False)])
def test_head_that_refuses_is_told_from_one_that_is_silent(
    monkeypatch: pytest.MonkeyPatch, error: OSError, refused: bool
) -> None:
    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        raise error

    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr("cluster.capacity.ray.get_runtime_context", lambda: context)
    monkeypatch.setattr("cluster.capacity.socket.create_connection", connect)
    with pytest.raises(HeadGoneError, match=r"10\.0\.0\.1:6379") as raised:
        check_head()
    assert raised.value.refused == refused
