"""A run's files on nodes that do not see its folder: out through Ray's object store, and back.

A node has a copy of what a run needs under a folder of its own: the run's folder, the teachers and
cached teacher outputs of the output folder that fit its teacher's model, checkpoints that the
configuration names. What the runs share is written once a node, by content. What comes back: the
rows of metrics.jsonl as they grow; at the end the run's folder, and the teachers that it trained.
Data sets do not travel.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock
from omegaconf import OmegaConf

from kd_research.records.record import (
    CONFIG_NAME,
    LOG_NAME,
    METRICS_NAME,
    PROPOSAL_NAME,
    RECORD_NAME,
)

PIECE_BYTES = 1 << 26
LEAST_FREE_BYTES = 1 << 24  # below it a disk is full
DESCRIPTIONS = {"teachers": "content.json", "soft_targets": "key.json"}  # of what runs share
WEIGHTS_NAME = "weights.pt"
TEXTS = (RECORD_NAME, LOG_NAME)  # where a node's paths may stand
LOCAL = ("lock", "fill.lock")  # files that mean something on their own machine alone


@dataclass(frozen=True)
class Sent:
    """A file on its way to a node.

    Attributes:
        path: where it is on the sweeper's machine.
        digest: SHA-256 of its content.
        pieces: its content, in Ray's object store.
        shared: whether other runs want it too.
    """

    path: str
    digest: str
    pieces: list[ray.ObjectRef[bytes]]
    shared: bool


class Outbox:
    """What the sweeper's machine sends.

    Args:
        output_dir: of the sweep.
    """

    def __init__(self, output_dir: Path):
        self.output_dir = output_dir
        self._put: dict[Path, tuple[tuple[int, int], Sent]] = {}

    def files(self, directory: Path) -> list[Sent]:
        """What a run of the folder needs, each content put into the object store once."""
        config = OmegaConf.to_container(OmegaConf.load(directory / CONFIG_NAME))
        own = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        if (directory.parent / PROPOSAL_NAME).exists():
            own.append(directory.parent / PROPOSAL_NAME)
        shared = [*self._fitting(config), *_checkpoints(config)]
        return [self._send(path, False) for path in own] + [self._known(path) for path in shared]

    def _fitting(self, config: Any) -> Iterator[Path]:
        """The files of teachers and cached outputs whose model the configuration has."""
        wanted = [json.dumps(model, sort_keys=True) for model in _models(config.get("teacher"))]
        for kind, name in DESCRIPTIONS.items():
            for description in sorted((self.output_dir / kind).glob(f"*/{name}")):
                has = map(_dumped, _models(json.loads(description.read_text(encoding="utf-8"))))
                if any(text in wanted for text in has):
                    yield from (p for p in sorted(description.parent.iterdir()) if _travels(p))

    def _known(self, path: Path) -> Sent:
        stat = path.stat()
        state = stat.st_mtime_ns, stat.st_size
        if path not in self._put or self._put[path][0] != state:
            self._put[path] = state, self._send(path, True)
        return self._put[path][1]

    def _send(self, path: Path, shared: bool) -> Sent:
        digest, pieces = hashlib.sha256(), []
        with path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                digest.update(piece)
                pieces.append(ray.put(piece))
        return Sent(str(path), digest.hexdigest(), pieces, shared)


def _dumped(model: Any) -> str:
    return json.dumps(model, sort_keys=True)


def _models(node: Any) -> Iterator[Any]:
    """All that is instantiated in a piece of configuration, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from _models(value)
    elif isinstance(node, list):
        for value in node:
            yield from _models(value)


def _checkpoints(node: Any) -> Iterator[Path]:
    """The files that `checkpoint` keys name; of a run's folder its weights and its record."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "checkpoint" and isinstance(value, str):
            path = Path(value)
            names = (WEIGHTS_NAME, CONFIG_NAME, RECORD_NAME)
            paths = [path / name for name in names] if path.is_dir() else [path]
            paths += [each.with_name(f"{each.name}.sha256") for each in paths]
            yield from filter(Path.is_file, paths)
        elif isinstance(value, dict):
            yield from _checkpoints(value)
        elif isinstance(value, list):
            for item in value:
                yield from _checkpoints(item)


def _travels(path: Path) -> bool:
    return path.is_file() and path.name not in LOCAL


class Mirror:
    """A node's copy of the sweeper's files; it goes when the last process that uses it has gone.

    Args:
        token: of the sweeper's pool.
        output_dir: where the sweep writes, on the sweeper's machine.
    """

    def __init__(self, token: str, output_dir: Path):
        home = Path(tempfile.gettempdir()) / f"kd_research-ray-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        self.home, self.root, self.output_dir = home, home / token, output_dir
        with FileLock(home / "lock"):
            for other in home.iterdir():
                if other.is_dir() and other.name != token and not _is_used(other):
                    shutil.rmtree(other, ignore_errors=True)  # of a sweeper that was killed
            self.root.mkdir(exist_ok=True)
            self._use = os.open(self.root / ".used", os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._use, fcntl.LOCK_SH)
        self._sent: set[Path] = set()  # of what the runs share

    def leave(self) -> None:
        """Be done with it; the last one takes it off the disk."""
        os.close(self._use)
        with FileLock(self.home / "lock"):
            if self.root.exists() and not _is_used(self.root):
                shutil.rmtree(self.root, ignore_errors=True)

    def local(self, path: str | Path) -> Path:
        """Where the node has a file of the sweeper's machine."""
        return self.root / Path(path).relative_to("/")

    def is_full(self) -> bool:
        """Whether the node's disk is."""
        return shutil.disk_usage(self.root).free < LEAST_FREE_BYTES

    def receive(self, directory: str, files: Sequence[Sent]) -> Path:
        """Write what a run needs and is not there; the run's folder on the node.

        Raises:
            OSError: the disk is full.
        """
        folder = self.local(directory)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with FileLock(self.root / ".receive"):
            for file in files:
                self._write(file)
        named = {name for file in files if file.shared for name in _names(file.path)}
        moved = "|".join(map(re.escape, sorted({str(self.output_dir), *named}, key=len)[::-1]))
        here = re.compile(rf"(?<![^\s'\"])(?:{moved})(?=[/\s'\"]|$)", re.MULTILINE)
        text = (folder / CONFIG_NAME).read_text(encoding="utf-8")
        text = here.sub(lambda found: str(self.local(found[0])), text)
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
        return folder

    def _write(self, file: Sent) -> None:
        path = self.local(file.path)
        known = self.root / ".sums" / hashlib.sha256(file.path.encode()).hexdigest()
        if file.shared:
            self._sent.add(path.parent)
            if known.exists() and known.read_text(encoding="utf-8") == file.digest:
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("wb") as stream:
            for piece in file.pieces:
                stream.write(ray.get(piece))
        temporary.replace(path)
        if file.shared:
            known.parent.mkdir(exist_ok=True)
            known.write_text(file.digest, encoding="utf-8")

    def forget(self, directory: str) -> None:
        """Take a run's folder off the node's disk."""
        shutil.rmtree(self.local(directory), ignore_errors=True)

    def last_line(self, folder: Path) -> str:
        """What a run said last."""
        path = folder / LOG_NAME
        lines = (
            path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        )
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def folder_files(self, folder: Path) -> dict[str, bytes]:
        """The content of a run's folder, as the sweeper's machine is to have it; gone here."""
        found = {}
        for path in folder.rglob("*"):
            if path.is_file() and path.name != CONFIG_NAME:
                found[str(path.relative_to(folder))] = self._told(path)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def _told(self, path: Path) -> bytes:
        content = path.read_bytes()
        return content.replace(str(self.root).encode(), b"") if path.name in TEXTS else content

    def shared_files(self, outputs: bool) -> dict[str, bytes]:
        """The teachers that were trained here, and if asked for what was cached of them."""
        found, home = {}, self.local(self.output_dir)
        for kind, name in DESCRIPTIONS.items():
            for description in (home / kind).glob(f"*/{name}"):
                folder = description.parent
                whole = outputs if kind == "soft_targets" else (folder / WEIGHTS_NAME).exists()
                if not whole or folder in self._sent:
                    continue
                self._sent.add(folder)
                for path in filter(_travels, folder.iterdir()):
                    found[str(path.relative_to(home))] = path.read_bytes()
        return found


def _names(path: str) -> list[str]:
    """How a configuration may name a file that travels: itself, or the folder of a run."""
    return [path, str(Path(path).parent)] if Path(path).name == WEIGHTS_NAME else [path]


def _is_used(root: Path) -> bool:
    with (root / ".used").open("a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def take_rows(directory: Path, rows: bytes) -> None:
    """Add to a run's metrics.jsonl what a node has sent."""
    if rows:
        with (directory / METRICS_NAME).open("ab") as stream:
            stream.write(rows)


def take_files(home: Path, files: dict[str, bytes], replace: bool) -> None:
    """Write files that came back; the record and the weights, which say that all is there, last.

    Args:
        home: what their names are relative to.
        files: name -> content.
        replace: whether what is there already gives way.
    """
    for name in sorted(files, key=lambda name: Path(name).name in (RECORD_NAME, WEIGHTS_NAME)):
        path = home / name
        if path.exists() and not replace:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(files[name])
        temporary.replace(path)
