"""What the ranks of `tests.trainer.engine_world` are told to save and load, and what they saved."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.fragments import KINDS
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.store import newest_good

STAGES = (0, 1, 2, 3)
# Stage 2 in fp32: a flat buffer in another order than the groups. Stage 3: several sub groups, and parameters that stay
# whole beside such that do not.
SMALL_PARTS = {"sub_group_size": 60, "stage3_param_persistence_threshold": 20}
ZERO = {(2, "fp32"): {"round_robin_gradients": True}, (3, "fp32"): SMALL_PARTS, (3, "bf16"): SMALL_PARTS}


def write_case(folder: Path, world_size: int, stage: int, precision: str) -> dict[str, Any]:
    """A case that `tests.trainer.engine_world` writes, under a name that says what it is."""
    name = f"w{world_size}-s{stage}-{precision}"
    return {
        "name": name,
        "job": "write",
        "stage": stage,
        "precision": precision,
        "zero": ZERO.get((stage, precision), {}),
        "out_dir": str(folder / name),
    }


def read_case(folder: Path, source: str, world_size: int, stage: int, precision: str) -> dict[str, Any]:
    """A case that loads what the case `source` wrote."""
    case = write_case(folder, world_size, stage, precision)
    name = f"{source}-to-{case['name']}"
    return {**case, "name": name, "job": "read", "from": str(folder / source), "out_dir": str(folder / name)}


def contents(out_dir: Path, one_moment: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Masters and moments whole, update counts, frozen parameters and buffers of the newest checkpoint.

    one_moment: the parameters that Muon steps on.
    """
    choice = newest_good(out_dir)
    assert choice is not None
    found = {}
    with CheckpointReader(choice.address, choice.manifest) as reader:
        for name, shape in choice.manifest.shapes.items():
            for kind in KINDS[:2] if name in one_moment else KINDS:
                out = torch.empty(shape).view(-1)
                reader.read_into(out, name, kind, 0)
                found[f"{name} {kind}"] = out
            found[f"{name} step"] = torch.tensor(reader.step(name))
        found |= {name: reader.frozen(name) for name in choice.manifest.frozen}
        found |= {name: reader.buffer(name) for name in choice.manifest.buffers}
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names, and the same bits under each."""
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name].double(), expected[name].double())]
    assert different == []
