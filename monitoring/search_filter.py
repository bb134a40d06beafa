"""MLflow's search filters, those that most people write, as SQL over its database.

A filter is `params.lr = '0.001' AND metrics.val_loss < 5`: comparisons joined by AND, of `params.`, `metrics.` or
`tags.` with a key (in backticks or double quotes where it is no plain word), or of the attributes run_name, run_id,
status, start_time and end_time. A run that lacks a key is not found by it, whatever the comparison.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CONDITION = re.compile(
    r"""\s*(?:(?P<kind>params?|parameters?|metrics?|tags?|attributes?|attr|run)\.)?
    (?P<key>`[^`]+`|"[^"]+"|[\w./\-]+)\s*
    (?P<op>!=|<=|>=|=|<|>|(?i:NOT\s+IN|IN|I?LIKE))\s*
    (?P<value>\([^()]*\)|'[^']*'|"[^"]*"|[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*""",
    re.VERBOSE,
)
_TABLES = {"param": "params", "parameter": "params", "metric": "latest_metrics", "tag": "tags"}
_TEXT_ATTRIBUTES = {"run_name": "name", "run name": "name", "run_id": "run_uuid", "status": "status"}
_NUMBER_ATTRIBUTES = {"start_time": "start_time", "end_time": "end_time"}
_NUMBER_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
_TEXT_OPERATORS = ("=", "!=", "LIKE", "ILIKE")


class OtherFilterError(ValueError):
    """A filter that is not of these: MLflow itself has to read it."""


@dataclass(frozen=True)
class SqlFilter:
    """A condition on the rows of the table `runs`, and its parameters."""

    sql: str
    values: tuple[str | float, ...]


def to_sql(text: str) -> SqlFilter:
    """The filter as SQL; the functions `headrace_like` and `headrace_ilike` (text, pattern) have to be there.

    Raises OtherFilterError.
    """
    parts, values, at = [], [], 0
    while text.strip():
        match = _CONDITION.match(text, at)
        if match is None:
            raise OtherFilterError(text)
        sql, found = _condition(match)
        parts.append(sql)
        values += found
        at = match.end()
        if at == len(text):
            break
        joint = re.compile(r"AND\s", re.IGNORECASE).match(text, at)
        if joint is None:
            raise OtherFilterError(text)
        at = joint.end()
    return SqlFilter(" AND ".join(parts) or "1", tuple(values))


def like(text: str | None, pattern: str, ignore_case: bool = False) -> bool:
    """SQL's LIKE, which minds the case, as MLflow has it on every database."""
    if text is None:
        return False
    wanted = "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(wanted, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def _condition(match: re.Match[str]) -> tuple[str, list[str | float]]:
    kind = (match["kind"] or "attribute").removesuffix("s")
    key, operator = match["key"].strip('`"'), match["op"].upper()
    if kind in _TABLES:
        is_number = kind == "metric"
        sql, value = _comparison("t.value", operator, match["value"], is_number)
        where = f"t.run_uuid = runs.run_uuid AND t.key = ? AND {sql}"
        return f"EXISTS (SELECT 1 FROM {_TABLES[kind]} t WHERE {where})", [key, value]
    columns = {**_TEXT_ATTRIBUTES, **_NUMBER_ATTRIBUTES}
    if key not in columns:
        raise OtherFilterError(match.string)
    sql, value = _comparison(f"runs.{columns[key]}", operator, match["value"], key in _NUMBER_ATTRIBUTES)
    return sql, [value]


def _comparison(column: str, operator: str, text: str, is_number: bool) -> tuple[str, str | float]:
    is_quoted = text[0] in "'\""
    if is_number == is_quoted or operator not in (_NUMBER_OPERATORS if is_number else _TEXT_OPERATORS):
        raise OtherFilterError(f"{operator} {text}")
    if operator in ("LIKE", "ILIKE"):
        return f"headrace_{operator.lower()}({column}, ?)", text[1:-1]
    try:
        return f"{column} {operator} ?", float(text) if is_number else text[1:-1]
    except ValueError as error:
        raise OtherFilterError(text) from error
