"""How often a run may go through its sources."""

from collections.abc import Mapping

from data_shards.errors import DataError

# Up to four passes over the same text a model learns about as much as from as much new text, and from then on ever
# less (Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", section 5).
PASSES_OF_FULL_WORTH = 4.0


def check_passes(passes: Mapping[str, float], caps: Mapping[str, float]) -> dict[str, float]:
    """The sources that a run goes through more than four times, and how often; `passes` by source.

    Raises: DataError naming the first source, by name, with more passes than its cap.
    """
    for name, times in sorted(passes.items()):
        if times > caps.get(name, times):
            raise DataError(
                f"data.sources: the run goes through {name} {times:.2f} times, and its max_passes is {caps[name]:g}: "
                "train on fewer tokens, lower its weight, give it more text, or raise its max_passes."
            )
    return {name: times for name, times in sorted(passes.items()) if times > PASSES_OF_FULL_WORTH}
