"""Reads W&B's offline run files back, without a server.

The format (wandb 0.31): 7 bytes `:W&B` and a version, then LevelDB's log: blocks of 32 KiB, each of
pieces `<crc u32><length u16><type u8>` and data, where the type says whole, first, middle or last
piece of one serialised `wandb_internal_pb2.Record`.
"""

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from later import Later

wandb_internal_pb2 = Later("wandb.proto.wandb_internal_pb2")

BLOCK = 32 * 1024
PIECE = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    directory: Path
    run_id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    used_artifacts: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def series(self, name: str) -> list[Any]:
        return [row[name] for row in self.history if name in row]

    def media(self, name: str) -> Any:
        """The content of the table or chart whose last value in the summary is `name`."""
        return json.loads((self.directory / "files" / self.summary[name]["path"]).read_text())


def read_runs(output_dir: Path) -> list[OfflineRun]:
    """Every offline run below `output_dir/wandb`, by id."""
    files = (output_dir / "wandb").glob("offline-run-*/run-*.wandb")
    return sorted((read_run(file) for file in files), key=lambda run: run.run_id)


def read_run(file: Path) -> OfflineRun:
    run = OfflineRun(file.parent)
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.project = record.run.run_id, record.run.project
            run.name, run.group = record.run.display_name, record.run.run_group
            run.job_type, run.tags = record.run.job_type, list(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            run.history.append(_update({}, record.history.item))
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            run.step_metrics[name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "use_artifact":
            run.used_artifacts.append(record.use_artifact.name)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _update(known: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        *parents, last = item.nested_key or [item.key]
        place = known
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)
    return known


def _records(content: bytes) -> list[bytes]:
    """The serialised records; a torn end (a killed process) is left out, damage is an error."""
    assert content[:4] == b":W&B", f"not a W&B run file: {content[:7]!r}"
    found, pieces, place = [], b"", 7
    while place + PIECE.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < PIECE.size:
            place += left  # no room for a piece: the block's end is padding
            continue
        checksum, length, kind = PIECE.unpack_from(content, place)
        data = content[place + PIECE.size : place + PIECE.size + length]
        if len(data) < length:
            break
        assert checksum == zlib.crc32(bytes([kind]) + data), f"checksum differs at byte {place}"
        place += PIECE.size + length
        pieces = data if kind in (WHOLE, FIRST) else pieces + data
        if kind in (WHOLE, LAST):
            found.append(pieces)
    return found
