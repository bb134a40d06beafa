import pytest

from data_shards.errors import DataError
from data_shards.rejects import PLACES_PER_UNIT, Reject, Rejects, parse_rejects, rejects_table, shown


def test_reject_under_fail_names_place_reason_and_value() -> None:
    with pytest.raises(DataError, match=r"f:3: not JSON: \[: correct the file, or set data.on_bad_record: skip"):
        Rejects("fail").reject("not JSON", "f:3", "[")


def test_rejects_under_skip_are_counted_and_the_first_hundred_placed(caplog: pytest.LogCaptureFixture) -> None:
    rejects = Rejects("skip")
    for number in range(150):
        rejects.reject("not JSON" if number % 2 else "invalid UTF-8", f"f:{number}", "x")
    assert rejects.skipped == {"not JSON": 75, "invalid UTF-8": 75}
    assert rejects.places == [
        Reject(f"f:{number}", "not JSON" if number % 2 else "invalid UTF-8", "x") for number in range(PLACES_PER_UNIT)
    ]
    assert len(caplog.messages) == 10


def test_rejects_table_comes_back() -> None:
    first = (Reject("f:1", "not JSON", "三"), Reject("f:2", "no field text", "keys a"))
    second = (Reject("g:1", "not JSON", "x"),)
    data = rejects_table([("unit 1", "en", first), ("unit 2", "zh", ()), ("unit 3", "zh", second)])
    assert parse_rejects(data) == {"unit 1": first, "unit 3": second}
    assert data == rejects_table([("unit 1", "en", first), ("unit 3", "zh", second)])


def test_shown_is_the_beginning() -> None:
    assert shown("  " + "x" * 70) == "x" * 60 + "..."
    assert shown(" a\n") == "a"
