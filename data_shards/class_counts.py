"""How many examples each class of a dataset has."""

import numpy as np

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.loss_bit import counted_tokens, token_ids
from data_shards.permutation import Int64Array
from data_shards.shard_reader import ShardReader
from data_shards.shard_view import ShardView


def class_counts(dataset: Dataset, classes: int, split: str = "train") -> Int64Array:
    """Examples of each class of a dataset of so many, in a split, int64 [classes], from all its tokens.

    Raises: DataError if a shard is missing or damaged, or holds a class of a higher number.
    """
    numbers = np.zeros(classes, np.int64)
    shards = dataset.split(split)
    reader = ShardReader(dataset, shards)
    for index, shard in enumerate(shards):
        reader.prove(index, 0, shard.tokens, with_documents=False)
        view = ShardView(dataset, shard)
        for _, block in view.placed_blocks():
            stored = view.tokens_of(block)
            found = token_ids(stored[counted_tokens(stored)])
            if found.size and found.max() >= len(numbers):
                raise DataError(
                    f"{view.path}: holds an example of class {int(found.max())}, and the dataset has {len(numbers)}: "
                    "prepare it again"
                )
            numbers += np.bincount(found, minlength=len(numbers))
    return numbers
