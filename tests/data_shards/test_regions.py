import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import regions as module
from data_shards.regions import LongRecord, count_lines, regions, split_lines, without_end

CHUNKS = st.lists(st.sampled_from([b"a", b"bcd", b"\n", b"\r\n", b"\n\n", b"efghijklm"]), max_size=25)


@settings(max_examples=300)
@given(CHUNKS, st.sampled_from([(b"\n",), (b"\n\n", b"\n\r\n"), ()]), st.integers(1, 20))
def test_regions_join_to_the_same_bytes_and_end_after_separators(
    chunks: list[bytes], separators: tuple[bytes, ...], held: int
) -> None:
    found: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HELD_BYTES", held)
        for region in regions(chunks, separators):
            found.append(b"".join(region) if isinstance(region, LongRecord) else region)
            if isinstance(region, LongRecord):
                assert region.lines == found[-1].count(b"\n") == count_lines(found[-1])
    assert b"".join(found) == b"".join(chunks)
    assert all(region.endswith(separators) for region in found[:-1])


def test_long_record_ends_with_its_first_separator() -> None:
    found = []
    for region in regions(iter([b"a" * (module.HELD_BYTES + 1), b"b\nc", b"d\n"]), (b"\n",)):
        assert isinstance(region, LongRecord) == (not found)
        found.append(b"".join(region) if isinstance(region, LongRecord) else region)
    assert [len(region) for region in found] == [module.HELD_BYTES + 3, 3]


@given(st.lists(st.binary(max_size=20)))
def test_split_lines_join_to_the_same_bytes(parts: list[bytes]) -> None:
    data = b"\n".join(parts)
    lines = split_lines(data)
    assert b"".join(lines) == data
    assert all(line.endswith(b"\n") for line in lines[:-1])
    assert all(b"\n" not in line[:-1] for line in lines)


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"bcdef"]), max_size=12))
def test_without_end_is_the_whole_without_what_the_pattern_matches(pieces: list[bytes]) -> None:
    end = re.compile(rb"(?:\r?\n){0,2}\Z")
    assert b"".join(without_end(pieces, end)) == end.sub(b"", b"".join(pieces), count=1)
