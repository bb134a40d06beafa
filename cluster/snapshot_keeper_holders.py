"""Which node holds a copy of which rank's snapshots, and which steps a gang can go on from. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

Held = Mapping[int, Collection[int]]
"""Steps of which somebody has a whole snapshot, by rank."""

HeldBySize = Mapping[int, Held]
"""The same by the size of the gang."""


def choose_holders(node_of_rank: Mapping[int, str], nodes: Iterable[str]) -> dict[int, str]:
    """For each rank the node that holds a copy of its snapshots; the same on whichever node it is asked.

    It is another one of `nodes` than the rank's own; a rank for which there is none is left out. No node holds more
    than ceil(ranks / other nodes) copies; of equals the next one in the order of the names has it.
    """
    ring = sorted({*nodes})
    load = dict.fromkeys(ring, 0)
    holders = {}
    for rank in sorted(node_of_rank):
        own = node_of_rank[rank]
        after = [node for node in ring if node > own] + [node for node in ring if node < own]
        if not after:
            continue
        holders[rank] = min(after, key=lambda node: load[node])
        load[holders[rank]] += 1
    return holders


def newest_of_other_sizes(world_size: int, held_by_size: Sequence[HeldBySize]) -> tuple[int, int] | None:
    """(size, step) of the newest snapshots that all ranks of a gang of another size than that one have, of equals of
    the smallest; None where there are none. held_by_size: what each keeper has, by the gang's size."""
    sizes = {size for held in held_by_size for size in held} - {world_size}
    newest = {size: common_steps(size, [held.get(size, {}) for held in held_by_size], 1) for size in sizes}
    return max(
        ((size, steps[0]) for size, steps in newest.items() if steps), key=lambda one: (one[1], -one[0]), default=None
    )


def common_steps(world_size: int, held: Sequence[Held], most: int) -> list[int]:
    """The newest steps, at most so many, of which a snapshot of every rank is held by somebody; rising."""
    by_rank = [{step for one in held for step in one.get(rank, ())} for rank in range(world_size)]
    return sorted(set.intersection(*by_rank))[-most:] if by_rank else []
