"""trials.parquet: the rows of trials.csv with their types."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_research.report.tables import FIRST_COLUMNS, LAST_COLUMNS, VALUE_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_COLUMNS = ("label", "state", "error", "directory")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows, atomically; a setting of several types becomes text.

    Counts, metrics and costs are float64, so that a cell can be empty; who and where are strings.
    """
    import pyarrow as pa  # 30 MB that a sweep need not have before its report
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    names = names or [*FIRST_COLUMNS, *VALUE_COLUMNS, *LAST_COLUMNS]
    kinds = {name: _kind(name, [row.get(name) for row in rows]) for name in names}
    schema = pa.schema(kinds.items())
    table = _table(rows, schema) if rows else schema.empty_table()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """By way of JSON: pa.array imports pandas, half a second, to see whether it is given any."""
    import pyarrow.json as pj

    lines = (
        json.dumps({field.name: _cell(row.get(field.name), field.type) for field in schema})
        for row in rows
    )
    text = "\n".join(lines).encode()
    return pj.read_json(
        io.BytesIO(text),
        pj.ReadOptions(use_threads=False, block_size=len(text)),  # a row may be long
        pj.ParseOptions(explicit_schema=schema),
    )


def _kind(name: str, values: list[Any]) -> pa.DataType:
    """The one type that all values of a column have."""
    import pyarrow as pa

    kinds = {type(value) for value in values if not _is_missing(value)}
    if kinds == {bool} and not any(map(_is_missing, values)):
        return pa.bool_()
    if kinds <= {int, float} and (kinds or name not in TEXT_COLUMNS):
        return pa.int64() if name == "trial" else pa.float64()
    return pa.string()


def _cell(value: Any, kind: pa.DataType) -> Any:
    if _is_missing(value):
        return None
    return str(value) if str(kind) == "string" else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
