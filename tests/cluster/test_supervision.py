"""What a supervisor makes of its coordinator's last word, without a gang."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cluster.messages import Start
from cluster.policy import Death, Diagnosis, GiveUp
from cluster.spec import GangFailed, GangSpec
from cluster.supervision import Supervision
from cluster.zygote_client import ZygoteClient
from trainer.attempts import take_attempt


class NoZygote:
    """Has not imported anything yet, so that no rank is forked."""

    ready = False

    def close(self) -> None:
        pass


@pytest.fixture
def supervision(tmp_path: Path) -> Iterator[Supervision]:
    """Of rank 1 of 2."""
    place = {"rank": 1, "world_size": 2, "local_rank": 0, "local_world_size": 1}
    spec, zygote = GangSpec("x", str(tmp_path), {}, "secret"), cast(ZygoteClient, NoZygote())
    supervision = Supervision(spec, place, "node1", zygote, 0, lambda: None)
    yield supervision
    supervision.close()


def lost_in(attempt: int) -> GiveUp:
    death = Death(0, "node0", "supervisor", "lost the supervisor of rank 0")
    return GiveUp(Diagnosis("infrastructure", death.reason, attempt, death))


def kind_told(supervision: Supervision, give_up: GiveUp) -> str:
    with pytest.raises(GangFailed) as caught:
        supervision._obey(give_up)
    assert caught.value.diagnosis.death is not None
    return caught.value.diagnosis.death.kind


def begin(supervision: Supervision, attempt: int) -> None:
    supervision._obey(Start(attempt, "127.0.0.1", 1))


def test_supervisor_that_was_outrun_says_so_whatever_the_gang_ended_of(
    supervision: Supervision, tmp_path: Path
) -> None:
    begin(supervision, take_attempt(tmp_path))
    take_attempt(tmp_path)
    assert kind_told(supervision, lost_in(attempt=1)) == "fenced"


def test_supervisor_that_was_not_outrun_tells_the_loss(supervision: Supervision, tmp_path: Path) -> None:
    begin(supervision, take_attempt(tmp_path))
    assert kind_told(supervision, lost_in(attempt=1)) == "supervisor"


def test_supervisor_that_missed_its_own_gangs_next_attempt_was_not_outrun(
    supervision: Supervision, tmp_path: Path
) -> None:
    begin(supervision, take_attempt(tmp_path))
    assert kind_told(supervision, lost_in(attempt=take_attempt(tmp_path))) == "supervisor"


def test_supervisor_of_a_gang_without_an_attempt_was_not_outrun(supervision: Supervision, tmp_path: Path) -> None:
    take_attempt(tmp_path)
    assert kind_told(supervision, lost_in(attempt=0)) == "supervisor"
