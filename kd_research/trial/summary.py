"""What a run says at its end."""

from __future__ import annotations

from pathlib import Path

from kd_research.records.printable import printable
from kd_research.records.record import RECORD_NAME, RunRecord


def summary(record: RunRecord, directory: Path) -> str:
    """What a person wants to know of a finished run, in a few lines."""
    if record.status != "completed":
        return printable(f"{record.status}: {record.error}\nfolder: {directory}")

    def shown(name: str) -> str:
        value = record.value(name)
        return "-" if value is None else f"{value:.4f}"

    epoch, last = record.selection["epoch"], record.selection["last_epoch"]
    which = f"epoch {epoch} of 0..{last}, chosen by" if epoch >= 0 else "nothing trained;"
    return "\n".join(
        [
            f"{'':10} {'validation':>10} {'test':>8}   (1 seed; {which} "
            f"{record.selection['metric']})",
            f"{'student':10} {shown('val_accuracy'):>10} {shown('test_accuracy'):>8}   "
            f"{record.costs['num_params']:,} parameters",
            f"{'teacher':10} {shown('teacher_val_accuracy'):>10} "
            f"{shown('teacher_test_accuracy'):>8}   "
            f"{record.costs.get('teacher_num_params') or 0:,} parameters",
            f"{'agreement':10} {shown('teacher_agreement'):>10} "
            f"{shown('test_teacher_agreement'):>8}",
            f"record: {directory / RECORD_NAME}",
        ]
    )
