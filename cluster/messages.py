"""What supervisors and the coordinator say to each other: one JSON object a line.

Every message that can come too late carries its attempt; what belongs to another attempt is dropped.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from cluster.policy import Death, Diagnosis, GiveUp

MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Hello:
    """First message of a supervisor; without the gang's token the connection is dropped."""

    rank: int
    node: str
    token: str


@dataclass(frozen=True)
class Ping:
    """Nothing but a sign of life, both ways."""


@dataclass(frozen=True)
class Dead:
    """The rank of this attempt died, hangs, or could not be forked."""

    attempt: int
    death: Death


@dataclass(frozen=True)
class Stuck:
    """The rank of this attempt stands still, by itself or for another one; place: how far it has come."""

    attempt: int
    death: Death
    place: tuple[int, ...]


@dataclass(frozen=True)
class Moving:
    """The rank of this attempt that was said to be stuck has moved."""

    attempt: int
    rank: int


@dataclass(frozen=True)
class Down:
    """The rank of this attempt is gone and reaped; step: the last one that it completed, 0 if none."""

    attempt: int
    rank: int
    step: int


@dataclass(frozen=True)
class Done:
    """The rank of this attempt ended well. code: 0 finished, 3 stopped on request."""

    attempt: int
    rank: int
    code: int
    step: int


@dataclass(frozen=True)
class Start:
    """Fork a rank. cause, detected: the failure before, and when it was heard of (coordinator's monotonic seconds)."""

    attempt: int
    store_host: str
    store_port: int
    cause: Death | None = None
    detected: float | None = None


@dataclass(frozen=True)
class Stop:
    """Kill the rank of this attempt, wait until it is reaped, say down."""

    attempt: int


@dataclass(frozen=True)
class Finish:
    """All ranks ended well. status: `finished` or `stopped`."""

    status: str
    attempt: int
    step: int
    restarts: int


Message = Hello | Ping | Dead | Stuck | Moving | Down | Done | Start | Stop | Finish | GiveUp

_TYPES: dict[str, type[Any]] = {
    "hello": Hello,
    "ping": Ping,
    "dead": Dead,
    "stuck": Stuck,
    "moving": Moving,
    "down": Down,
    "done": Done,
    "start": Start,
    "stop": Stop,
    "finish": Finish,
    "give_up": GiveUp,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}


class MalformedMessageError(ValueError):
    """A line that is no message: the connection that sent it is dropped."""


def encode(message: Message) -> bytes:
    """One line of JSON, with its line end."""
    return json.dumps({"type": _NAMES[type(message)], **dataclasses.asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of one line; MalformedMessageError if it is none."""
    try:
        values = json.loads(line)
        cls = _TYPES[values.pop("type")]
        message: Message = cls(**{key: _decode_field(key, value) for key, value in values.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedMessageError(f"no message: {line[:200]!r}") from error
    return message


def _decode_field(key: str, value: Any) -> Any:
    if key in ("death", "cause") and value is not None:
        return Death(**{**value, "last_lines": tuple(value["last_lines"])})
    if key == "place":
        return tuple(value)
    if key == "diagnosis":
        return Diagnosis(**{**value, "death": _decode_field("death", value["death"])})
    return value
