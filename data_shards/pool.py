"""The endless sequence order of one pool of shards: epoch after epoch, each sequence once in each."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from data_shards.permutation import Int64Array, UInt64Array, keyed_hash, permute
from data_shards.streams import StreamLayout, lay_streams

_KEPT_EPOCHS = 3
# What a hash is for, so that no two uses share one.
_SEGMENT_ORDER, _STREAM_SLOT, _WINDOW, _OFFSET = range(4)


def sequence_counts(tokens: Int64Array, seq_len: int) -> Int64Array:
    """Whole sequences (seq_len inputs, and labels one further) in shards of so many tokens; int64, same shape."""
    return np.maximum(0, (tokens - 1) // seq_len)


@dataclass(frozen=True)
class _EpochTable:
    """One epoch's order. Arrays are sorted by place: the sequences of slot 0, then those of slot 1, and so on."""

    segment: Int64Array  # [segments], index into the layout
    segment_start: Int64Array  # [segments], place of its first sequence
    window_start: Int64Array  # [windows]
    window_length: Int64Array  # [windows]
    window_key: UInt64Array  # [windows]


class Pool:
    """Maps the pool's index 0, 1, 2, ... to (shard, first token); knows no rank and keeps no position.

    Index m is sequence m mod N of epoch m // N; sequence i is number i // streams in slot i mod streams. Each epoch
    deals the streams to the slots anew, puts a stream's segments in a new order, and shuffles the sequences within
    each `window` consecutive segments. Slots of one length stay of one length, so every slot is one whole stream.
    """

    def __init__(
        self, shards: Int64Array, tokens: Int64Array, *, seq_len: int, streams: int, window: int, key: np.uint64
    ) -> None:
        """`shards` int64 [n] are the numbers to answer with, `tokens` int64 [n] their lengths."""
        counts = sequence_counts(tokens, seq_len)
        self.sequences = int(counts.sum())
        self.layout: StreamLayout = lay_streams(counts, streams)
        self._shards = shards
        self._tail = np.maximum(0, tokens - 1 - counts * seq_len)
        self._seq_len, self._streams, self._window, self._key = seq_len, streams, window, key
        self._tables: OrderedDict[int, _EpochTable] = OrderedDict()

    def locate(self, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Shard and first token of each index; int64 [n] in, two int64 [n] out."""
        epochs, within = np.divmod(indices, self.sequences)
        if epochs.size and epochs.min() == epochs.max():
            return self._locate_in_epoch(int(epochs[0]), within)
        shard, first = np.empty_like(indices), np.empty_like(indices)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            shard[here], first[here] = self._locate_in_epoch(epoch, within[here])
        return shard, first

    def dealt(self, epoch: int) -> tuple[Int64Array, Int64Array]:
        """Slot and shard of each segment in an epoch, two int64 [segments]."""
        return self._slots(epoch)[self.layout.stream], self._shards[self.layout.shard]

    def _locate_in_epoch(self, epoch: int, within: Int64Array) -> tuple[Int64Array, Int64Array]:
        table = self._table(epoch)
        row, slot = np.divmod(within, self._streams)
        short, longer = divmod(self.sequences, self._streams)
        place = slot * short + np.minimum(slot, longer) + row
        window = np.searchsorted(table.window_start, place, side="right") - 1
        start = table.window_start[window]
        place = start + permute(place - start, table.window_length[window], table.window_key[window])
        entry = np.searchsorted(table.segment_start, place, side="right") - 1
        segment = table.segment[entry]
        shard = self.layout.shard[segment]
        sequence = self.layout.first[segment] + place - table.segment_start[entry]
        return self._shards[shard], self._offset(epoch, shard) + sequence * self._seq_len

    def _offset(self, epoch: int, shard: Int64Array) -> Int64Array:
        """Where an epoch starts to cut a shard; the first two epochs together reach every token."""
        tail: Int64Array = self._tail[shard]
        if epoch == 0:
            return np.zeros_like(tail)
        if epoch == 1:
            return tail
        hashed = keyed_hash(self._key, _OFFSET, epoch, shard) % (tail + 1).astype(np.uint64)
        return hashed.astype(np.int64)

    def _table(self, epoch: int) -> _EpochTable:
        if epoch not in self._tables:
            self._tables[epoch] = self._build_table(epoch)
        self._tables.move_to_end(epoch)
        if len(self._tables) > _KEPT_EPOCHS:
            self._tables.popitem(last=False)
        return self._tables[epoch]

    def _build_table(self, epoch: int) -> _EpochTable:
        layout = self.layout
        slot = self._slots(epoch)[layout.stream]
        order_key = keyed_hash(self._key, _SEGMENT_ORDER, epoch, np.arange(len(slot)))
        segment = np.lexsort((order_key, slot))
        segment_start = _starts(layout.count[segment])
        stream, number = layout.stream[segment], np.arange(len(segment))
        first_of_slot = np.searchsorted(slot[segment], slot[segment])
        opens = np.flatnonzero((number - first_of_slot) % self._window == 0)
        window_start = segment_start[opens]
        number_in_stream = (opens - first_of_slot[opens]) // self._window
        return _EpochTable(
            segment=segment,
            segment_start=segment_start,
            window_start=window_start,
            window_length=np.diff(window_start, append=self.sequences),
            window_key=keyed_hash(self._key, _WINDOW, epoch, stream[opens], number_in_stream),
        )

    def _slots(self, epoch: int) -> Int64Array:
        """The slot of each stream, int64 [streams].

        Without this deal, neighbouring streams, which may hold neighbouring pieces of one shard, would always be in
        one batch, and a corpus of fewer sequences than streams would never be shuffled.
        """
        streams = np.arange(self._streams)
        is_short = streams >= self.sequences % self._streams
        slot = np.empty_like(streams)
        slot[np.lexsort((keyed_hash(self._key, _STREAM_SLOT, epoch, streams), is_short))] = streams
        return slot


def _starts(counts: Int64Array) -> Int64Array:
    return np.cumsum(counts) - counts
