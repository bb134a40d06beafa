"""What a rank holds beside activations, by ZeRO's formula and by what DeepSpeed really allocates. Pure functions.

ZeRO's formula (Rajbhandari et al. 2020, section 5): of P parameters trained in half precision with Adam a rank holds
2 P bytes of parameters, 2 P of gradients and 12 P of fp32 masters and moments; stage 1 divides the 12 P by the ranks,
stage 2 the gradients too, stage 3 everything. Offload moves the optimizer's share, or all, to the host (Ren et
al. 2021).

DeepSpeed 0.19 holds more: flat buffers of which gradients are copied into buckets, masters in fp32 runs beside the
parameters, gradients in fp32, and at stage 3 parameters that are gathered whole. Its moments of most memory were found
by counting live tensors, operation by operation; tests/trainer/test_plan_memory.py counts them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainer.plan_activations import FP32_BYTES, Activations

Offload = Literal["none", "optimizer", "all"]

STATES_BYTES = 12
"""fp32 master and two moments of an element."""
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Sizes:
    """Elements of a model's parameters: of all, of those trained, of those that have one moment (Muon's), of the
    largest one, of one block's, and of each."""

    total: int
    trained: int
    one_moment: int
    largest: int
    block: int
    each: tuple[int, ...]

    def below(self, threshold: int) -> int:
        """Elements of the parameters that have at most so many."""
        return sum(elements for elements in self.each if elements <= threshold)


@dataclass(frozen=True)
class Partition:
    """How the states lie on the ranks: ZeRO's stage, ranks, precision, passes per step, and DeepSpeed's buckets.

    Numbers of elements: bucket, of gradients reduced at once; prefetch, persistent, live and sub_group of stage 3,
    as DeepSpeed's fields of these names have them.
    """

    stage: int
    world_size: int
    precision: str
    accumulation: int
    bucket: int
    offload: Offload = "none"
    prefetch: int = 50_000_000
    persistent: int = 100_000
    live: int = 1_000_000_000
    sub_group: int = 1_000_000_000

    @property
    def element_bytes(self) -> int:
        """Of a parameter as it is computed with."""
        return ELEMENT_BYTES[self.precision]

    @property
    def gradient_bytes(self) -> int:
        """Of an element of a gradient as it is accumulated."""
        return FP32_BYTES if self.precision == "bf16" and self.stage > 0 else self.element_bytes

    @property
    def keeps_whole_gradients(self) -> bool:
        """Whether a rank holds every element's gradient in fp32 at all times (DeepSpeed's BF16_Optimizer)."""
        return self.stage == 1 and self.precision == "bf16"

    def share(self, elements: int) -> int:
        """A rank's part of what is divided over the ranks, rounded up."""
        return -(-elements // self.world_size)


def partition_of(config: Mapping[str, Any], precision: str, world_size: int, offload: Offload = "none") -> Partition:
    """The partition that a DeepSpeed configuration (`trainer.zero.deepspeed_config`) leads to."""
    zero = config["zero_optimization"]
    names = {
        "prefetch": "stage3_prefetch_bucket_size",
        "persistent": "stage3_param_persistence_threshold",
        "live": "stage3_max_live_parameters",
        "sub_group": "sub_group_size",
    }
    return Partition(
        stage=zero["stage"],
        world_size=world_size,
        precision=precision,
        accumulation=config["gradient_accumulation_steps"],
        bucket=zero["reduce_bucket_size"],
        offload=offload,
        **{name: int(zero[field]) for name, field in names.items() if field in zero},
    )


def formula_bytes(sizes: Sizes, stage: int, world_size: int, precision: str, offload: Offload = "none") -> int:
    """A rank's model states on the device by ZeRO's formula, with gradients in the parameters' format."""
    element = ELEMENT_BYTES[precision]
    copies = STATES_BYTES if precision != "fp32" else STATES_BYTES - FP32_BYTES
    shares = [1, 1, 1]  # of parameters, gradients, optimizer states: the ranks over which they are divided
    for index in range(stage):
        shares[2 - index] = world_size
    parameters, gradients = element * sizes.total // shares[0], element * sizes.trained // shares[1]
    if offload == "all":
        return 0
    if offload == "optimizer":
        return parameters + (gradients if stage < 2 else 0)
    return parameters + gradients + copies * sizes.trained // shares[2]


def states_at_rest(sizes: Sizes, partition: Partition) -> dict[str, int]:
    """Bytes that a rank's device holds between steps, by what they are."""
    element, share = partition.element_bytes, partition.share(sizes.trained)
    is_copied = partition.stage > 0 or partition.precision != "fp32"
    states = share if partition.stage > 0 else sizes.trained
    held = {
        "parameters": element * (partition.share(sizes.total) if partition.stage == 3 else sizes.total),
        "masters": FP32_BYTES * states if is_copied else 0,
        "moments": FP32_BYTES
        * (2 * states - sizes.one_moment // (1 if partition.stage == 0 else partition.world_size)),
    }
    if partition.keeps_whole_gradients:
        held["gradients in fp32"] = FP32_BYTES * sizes.trained
    if partition.stage == 3:
        held["gradients"] = partition.gradient_bytes * share
        held["reduce bucket"] = element * partition.bucket
        held["parameters that stay whole"] = _persistent_bytes(sizes, partition)
    return _offloaded(held, partition.offload)


def _offloaded(held: dict[str, int], offload: Offload) -> dict[str, int]:
    gone = {"optimizer": ("masters", "moments"), "all": ("masters", "moments", "parameters"), "none": ()}[offload]
    return {name: size for name, size in held.items() if name not in gone}


def host_bytes(sizes: Sizes, partition: Partition) -> int:
    """Bytes in the host's memory of states that are offloaded: masters, moments, and what goes with them."""
    if partition.offload == "none":
        return 0
    share = partition.share(sizes.trained) if partition.stage > 0 else sizes.trained
    parameters = partition.element_bytes * partition.share(sizes.total) if partition.offload == "all" else 0
    return (STATES_BYTES + FP32_BYTES) * share + parameters


def _persistent_bytes(sizes: Sizes, partition: Partition) -> int:
    """Stage 3: parameters so small that each rank keeps them whole; on one rank all are whole as they lie."""
    if partition.world_size == 1:
        return 0
    return partition.element_bytes * sizes.below(partition.persistent)


def moments(sizes: Sizes, partition: Partition, acts: Activations) -> dict[str, int]:
    """Bytes on a rank's device at the moments of a step where it may need most, by what happens then."""
    rest = sum(states_at_rest(sizes, partition).values())
    base = rest + _gathered_bytes(sizes, partition)
    between = _between_passes(sizes, partition)
    found = {
        "loss": base + between + acts.loss,
        "start of the backward pass": base + between + acts.backward,
        "backward pass": max(
            base + _in_block(sizes, partition, layers_after) + block
            for layers_after, block in enumerate(reversed(acts.blocks))
        ),
        "reduction of gradients": rest + _reduction(sizes, partition),
        "update": rest + _update(sizes, partition),
    }
    if partition.stage == 3 and partition.world_size > 1:
        whole = sizes.total - sizes.below(partition.persistent) - sizes.largest
        prefetched = partition.element_bytes * max(0, min(partition.prefetch, whole))
        found["forward pass"] = base + acts.saved + prefetched
        found["start of the forward pass"] = rest + 2 * _persistent_bytes(sizes, partition) + min(acts.blocks)
    return found


def _gathered_bytes(sizes: Sizes, partition: Partition) -> int:
    """Stage 3: parameters gathered beside those that always are, when all that may be live is."""
    if partition.stage < 3 or partition.world_size == 1:
        return 0
    live = partition.element_bytes * min(sizes.total, partition.live)
    return max(0, live - _persistent_bytes(sizes, partition))


def _between_passes(sizes: Sizes, partition: Partition) -> int:
    """Gradients of the passes before, when a step has several."""
    if partition.accumulation == 1 or partition.stage == 3:
        return 0
    if partition.stage == 2:
        return partition.gradient_bytes * partition.share(sizes.trained)
    whole = partition.element_bytes * sizes.trained
    is_bucketed = partition.stage == 1 and not partition.keeps_whole_gradients
    return whole + (partition.element_bytes * partition.bucket if is_bucketed else 0)


def _in_block(sizes: Sizes, partition: Partition, layers_after: int) -> int:
    """Gradients and buckets while a block's gradients are made and those of so many blocks after it are there."""
    later = min(layers_after * sizes.block, sizes.trained)
    bucket = partition.element_bytes * partition.bucket
    if partition.stage == 3:
        return 0
    if partition.stage == 2:
        held = sizes.trained if partition.accumulation > 1 else later
        return bucket + partition.gradient_bytes * partition.share(held)
    if partition.accumulation > 1:
        return _between_passes(sizes, partition)
    if partition.stage == 1 and not partition.keeps_whole_gradients:
        return bucket  # where the gradients are
    return partition.element_bytes * later


def _reduction(sizes: Sizes, partition: Partition) -> int:
    """What the last bucket of gradients takes, when all gradients are there."""
    element, share = partition.element_bytes, partition.gradient_bytes * partition.share(sizes.trained)
    whole, bucket = element * sizes.trained, element * partition.bucket
    if partition.stage == 0:
        return whole + (bucket if partition.world_size > 1 else 0)
    if partition.keeps_whole_gradients:
        return whole + (FP32_BYTES + element) * partition.bucket
    if partition.stage == 1:
        return bucket + share + (whole if partition.accumulation > 1 else 0)
    if partition.stage == 2:
        if partition.precision == "fp32":
            return bucket + _between_passes(sizes, partition) + (bucket if partition.world_size > 1 else share)
        return 2 * bucket + share + partition.gradient_bytes * sizes.largest
    if partition.world_size == 1:
        return 2 * bucket + (whole if partition.precision != "fp32" else 0)
    return 2 * bucket + element * sizes.largest


def _update(sizes: Sizes, partition: Partition) -> int:
    """Gradients as the optimizer steps on them."""
    share = partition.share(sizes.trained)
    if partition.stage == 0:
        return sizes.trained * (FP32_BYTES + (partition.element_bytes if partition.precision != "fp32" else 0))
    if partition.keeps_whole_gradients:
        return partition.element_bytes * sizes.trained
    if partition.stage == 3:
        return FP32_BYTES * min(share, partition.sub_group) - _persistent_bytes(sizes, partition)
    if partition.precision == "bf16":
        return FP32_BYTES * share + 2 * FP32_BYTES * min(sizes.largest, share)
    return (partition.gradient_bytes + FP32_BYTES) * share
