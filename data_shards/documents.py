"""Documents of a piece of a file, exactly as they stand there, and the records that are none."""

from collections.abc import Callable, Iterator, Mapping

from data_shards import (
    arrow_source,
    json_lines,
    megatron_source,
    parquet_source,
    reader_source,
    record_source,
    text_records,
    token_source,
    webdataset_source,
)
from data_shards.batches import Batch
from data_shards.rejects import Rejects
from data_shards.sources import SourceFile

Read = Callable[[SourceFile, int, int, Rejects], Iterator[Batch]]

_READERS: Mapping[str, Read] = {
    "text": text_records.read,
    "jsonl": json_lines.read,
    "parquet": parquet_source.read,
    "arrow": arrow_source.read,
    "webdataset": webdataset_source.read,
    "tokens": token_source.read,
    "megatron": megatron_source.read,
    "reader": reader_source.read,
}


def read_documents(file: SourceFile, start: int, end: int, rejects: Rejects) -> Iterator[Batch]:
    """The documents of a stretch of a file: [start, end) in bytes, row groups, or what else its format counts in.

    Text is not changed. Empty documents are left out and counted. Raises DataError where a file cannot be read, and
    under `fail` at the first bad record.
    """
    if file.task:
        return record_source.read(file, start, end, rejects)
    return _READERS[file.format](file, start, end, rejects)
