"""trials.parquet: the rows of trials.csv with their types."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kd_research.report.tables import FIRST_COLUMNS, LAST_COLUMNS, VALUE_COLUMNS

TEXT_COLUMNS = ("label", "state", "error", "directory")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows, atomically; a setting of several types becomes text.

    Counts, metrics and costs are float64, so that a cell can be empty; who and where are strings.
    """
    import pandas as pd  # a fifth of a second, at the start of every sweep

    frame = pd.DataFrame(
        rows, columns=None if rows else [*FIRST_COLUMNS, *VALUE_COLUMNS, *LAST_COLUMNS]
    )
    for name in frame.columns:
        column = frame[name]
        kinds = {type(value) for value in column if not pd.isna(value)}
        if kinds == {bool} and not column.isna().any():
            continue
        if kinds <= {int, float} and (kinds or name not in TEXT_COLUMNS):
            frame[name] = column.astype("float64" if name != "trial" else "int64")
        else:
            frame[name] = column.map(lambda value: None if pd.isna(value) else str(value))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
