"""A document or a training sequence of a dataset, as text."""

from bisect import bisect_right
from itertools import accumulate

from data_shards.dataset import Dataset
from data_shards.errors import DataError
from data_shards.shard_view import ShardView
from data_shards.tokenizer import load_tokenizer


def show(dataset: Dataset, n: int, split: str = "train", seq_len: int | None = None) -> str:
    """The text of document `n` (from 0, in manifest order) of a split, without its end mark.

    With `seq_len`, that of sequence `n` of the first epoch: `seq_len` tokens and one, end marks shown. Raises DataError
    where there is no such document or sequence.
    """
    sizes = [shard.documents if seq_len is None else (shard.tokens - 1) // seq_len for shard in dataset.split(split)]
    kind = "document" if seq_len is None else f"sequence of {seq_len} tokens"
    if not 0 <= n < sum(sizes):
        raise DataError(f"{dataset.dir}: {split} has no {kind} number {n}: it has {sum(sizes)}, counted from 0")
    ends = list(accumulate(sizes))
    index = bisect_right(ends, n)
    shard = dataset.split(split)[index]
    inside = n - (ends[index] - sizes[index])
    view = ShardView(dataset, shard)
    if seq_len is None:
        bounds = [*view.document_starts().tolist(), shard.tokens]
        start, stop = bounds[inside], bounds[inside + 1] - 1
    else:
        start, stop = inside * seq_len, (inside + 1) * seq_len + 1
    return load_tokenizer(dataset.tokenizer_path).decode(view.tokens(start, stop))
