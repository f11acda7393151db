"""TensorBoard and CSV, by Lightning's own loggers, for those who do not use W&B."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from kd_research.records.record import RunRecord
from kd_research.tracking.run import Row, Tracker


class LoggerTracker(Tracker):
    """Into one of Lightning's loggers; words, which they do not take, are left out."""

    def __init__(self, logger: CSVLogger | TensorBoardLogger) -> None:
        self._logger = logger

    def log(self, row: Row) -> None:
        """One row, at its epoch; epoch -1 is before the first."""
        known: dict[str, Any] = {
            key: value for key, value in row.items() if isinstance(value, int | float)
        }
        epoch = known.pop("epoch", None)
        self._logger.log_metrics(known, None if epoch is None else int(epoch))

    def finish(self, record: RunRecord) -> None:
        """The configuration, and in TensorBoard the result beside it (its HPARAMS page)."""
        result = {**record.metrics, **record.costs}
        known = {key: value for key, value in result.items() if value is not None}
        if isinstance(self._logger, TensorBoardLogger):
            self._logger.log_hyperparams(record.config, known)
        else:
            self._logger.log_hyperparams(record.config)


@contextmanager
def log_to_files(mode: str, directory: Path) -> Iterator[Tracker]:
    """Write into `directory/tensorboard` or `directory/csv`; what was there is replaced.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """
    shutil.rmtree(directory / mode, ignore_errors=True)
    place: dict[str, Any] = {"save_dir": str(directory), "name": "", "version": mode}
    logger: CSVLogger | TensorBoardLogger
    if mode == "tensorboard":
        logger = TensorBoardLogger(**place, default_hp_metric=False)
    else:
        logger = CSVLogger(**place)
    status = "failed"
    try:
        yield LoggerTracker(logger)
        status = "completed"
    finally:
        logger.finalize(status)
