"""What a gang is told, and how it ends."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.heartbeat import HangLimits
from cluster.policy import Diagnosis


@dataclass(frozen=True)
class GangSpec:
    """Everything that the supervisors of one run share; plain values, so that it travels as JSON.

    run_spec: passed to the ranks unchanged; entry: the module with `preload() -> None` and `main(spec) -> int`;
    token: a secret of this gang, without which a connection is dropped; hang_seconds: age of the liveness that counts
    as dead, or auto: by the observed step time; start_seconds: limit for preloading, for gathering, and from the fork
    to the first heartbeat; progress_seconds: limit between two beats of a rank whose threads live, in every phase;
    ping_seconds: three of them without a word are a lost connection; max_failures: restarts within the gang; env:
    added to the zygote's environment; keeps_memory: whether ranks keep what they free (see `trainer.allocator`);
    sample_seconds: between two looks at each node's load, None for none.
    """

    name: str
    out_dir: str
    run_spec: dict[str, Any]
    token: str = field(repr=False)
    entry: str = "trainer.rank"
    hang_seconds: float | Literal["auto"] = "auto"
    start_seconds: float = 120.0
    progress_seconds: float = 600.0
    ping_seconds: float = 5.0
    max_failures: int = 10
    env: dict[str, str] = field(default_factory=dict)
    keeps_memory: bool = False
    sample_seconds: float | None = None

    @property
    def out_path(self) -> Path:
        return Path(self.out_dir)

    @property
    def hang_limits(self) -> HangLimits:
        return HangLimits(self.hang_seconds, self.start_seconds, self.progress_seconds)

    @property
    def collective_seconds(self) -> float:
        """Limit of the ranks' collectives: longer than a standstill is borne, which names the rank that causes it."""
        return 1.5 * self.progress_seconds

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GangSpec":
        return cls(**values)


@dataclass(frozen=True)
class Outcome:
    """The good end of a gang. status: `finished`, or `stopped` on request with a checkpoint; step: the last one."""

    status: str
    attempt: int
    step: int
    restarts: int


class GangFailed(Exception):
    """The gang gave up. `diagnosis.final` says whether starting it again is of no use."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(diagnosis)
        self.diagnosis = diagnosis

    def __str__(self) -> str:
        return self.diagnosis.text()
