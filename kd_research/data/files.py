"""A data set's files in a local folder: which split is where, and what they are known by."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_research.data.store import file_digest

OURS = ("train", "validation", "test")  # what splits are called here
SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation"}
SPLIT_NAMES |= {"val": "validation", "dev": "validation", "test": "test"}
# What a file of rows is read by.
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
PLAIN = ".txt"  # each file a document; last, as images have lists of that name
_KINDS = "Parquet, CSV or JSON lines"
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def local_files(root: Path, name: str | None = None) -> dict[str, list[Path]]:
    """Split -> its files of rows, or its folder of images, in a folder.

    A single file, a folder of classes (`CLASS/x.png`), or plain text that is not named as a split
    is all training split: validation and test are cut from it.

    Args:
        root: a file of rows (`READERS`) or of plain text, or the folder; files of rows may be in
            one below it, such as `data/`.
        name: the folder below `root` to look in instead, as the Hub has its configurations.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it that is named as a split.
        ValueError: the files are in several folders, as if they were several sets, or of two kinds.
    """
    if root.is_file() and root.suffix.lower() in (*READERS, PLAIN) and name is None:
        return {"train": [root]}
    if not root.is_dir():
        raise FileNotFoundError(
            f"dataset.root={root} is not a folder, nor a file of {_KINDS} (seen from {Path.cwd()})"
            "; type dataset.root=/where/the/files/are, or dataset.root=null to ask the Hub"
        )
    base = root
    if name is not None:
        root = base / str(name)
        if not root.is_dir():
            raise FileNotFoundError(
                f"dataset.config_name={name} is no folder in dataset.root={base}, which has "
                f"{_names(base)}; type dataset.config_name=null, or another"
            )
    found = _files_of_rows(root, base)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _has_images(path))
    if not found:
        for folder in folders:
            if split := SPLIT_NAMES.get(folder.name.lower()):
                found.setdefault(split, []).append(folder)
    if not found and len(folders) > 1:
        return {"train": [root]}
    if not found and (only := _only_file(root)):
        return {"train": [only]}
    if not found:
        plain = sorted(file for file in files_below(root) if file.suffix.lower() == PLAIN)
        for file in plain:
            found.setdefault(_split_of(file) or "train", []).append(file)
    if "train" not in found:
        raise FileNotFoundError(
            f"no training split in dataset.root={root}: found {_names(root)}; expected "
            f"train.* (and test.*) of {_KINDS}, folders of images train/CLASS/*.png or "
            "CLASS/*.png, plain text *.txt, or dataset.root=FILE"
        )
    return found


def _files_of_rows(root: Path, base: Path) -> dict[str, list[Path]]:
    """Split -> files whose names begin with it: Parquet, or where there is none another kind."""
    found: dict[str, list[Path]] = {}
    places: set[Path] = set()
    named = [(file, _split_of(file)) for file in sorted(files_below(root)) if _is_rows(file)]
    parquet = [(file, split) for file, split in named if split and file.suffix == ".parquet"]
    for file, split in parquet or named:
        if split:
            found.setdefault(split, []).append(file)
            # train/train-0.parquet beside test/test-0.parquet is one set
            own = file.parent.name.lower() in SPLIT_NAMES and file.parent != root
            places.add(file.parent.parent if own else file.parent)
    if len(places) > 1:
        shown = sorted(str(place.relative_to(base)) for place in places)
        raise ValueError(
            f"dataset.root={base} has splits in {len(places)} folders: {', '.join(shown[:10])}; "
            f"type dataset.config_name={shown[-1]} to take one"
        )
    kinds = {READERS[file.suffix.lower()] for files in found.values() for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"dataset.root={base} has splits of {' and '.join(sorted(kinds))}; keep one kind, or "
            "type dataset.root=FILE to take one file, of which validation and test are cut"
        )
    return found


def _is_rows(file: Path) -> bool:
    return file.suffix.lower() in READERS and file.is_file()


def _split_of(file: Path) -> str | None:
    return SPLIT_NAMES.get(file.stem.replace("_", "-").split("-")[0].lower())


def _only_file(root: Path) -> Path | None:
    files = [file for file in root.iterdir() if _is_rows(file)]
    return files[0] if len(files) == 1 else None


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in _IMAGES for file in files_below(folder))


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files in and below a folder, those behind symbolic links too, hidden ones not.

    Args:
        folder: where to look.
        above: folders that it was reached through; a link to one of them would have no end.

    Raises:
        FileNotFoundError: a link leads to nothing; what it stood for would be missing silently.
    """
    above = (*above, folder.resolve())
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_file():
            yield path
        elif not entry.is_dir():
            raise FileNotFoundError(f"{path} is a link to nothing; mend it, or remove it")
        elif not entry.is_symlink() or path.resolve() not in above:
            yield from files_below(path, above)


def patterns(path: Path) -> list[str]:
    """What `datasets` finds a file by, or all files below a folder: it takes paths for patterns.

    A pattern a folder, since its own `**` follows no link.
    """
    if path.is_file():
        return [glob.escape(str(path))]
    folders = dict.fromkeys(file.parent for file in sorted(files_below(path)))
    return [f"{glob.escape(str(folder))}/*" for folder in folders]


def missing_files(dataset: Mapping[str, Any]) -> list[str]:
    """Why a configured data set's local files cannot be read, before anything else is done.

    Args:
        dataset: the configuration's; one that names neither `root` nor `path` has no files.
    """
    root, path = dataset.get("root"), dataset.get("path")
    if "root" not in dataset or "path" not in dataset or not str(root).strip():
        return []  # that it is empty is told elsewhere
    names = dataset.get("splits") or {}
    if problems := _name_problems(names):
        return problems
    try:
        if root is None:
            refuse_doubles(names, str(path))
            hub = "type dataset.root=FOLDER, or dataset.path=HUB_NAME"
            return [] if path else [f"dataset {dataset.get('name')} has no files; {hub}"]
        names = {ours: SPLIT_NAMES.get(theirs, theirs) for ours, theirs in names.items()}
        refuse_doubles(names, str(root))
        found = local_files(Path(str(root)).expanduser(), dataset.get("config_name"))
        for ours, theirs in names.items():
            if theirs is not None and theirs not in found:
                own = ours if ours in found else "null"
                raise ValueError(
                    f"dataset.splits.{ours}={theirs} is not in {root}, which has "
                    f"{', '.join(sorted(found))}; type ++dataset.splits.{ours}={own}"
                )
        for split, files in found.items():
            if names.get(split, split) is not None:
                refuse_missing_shards(files)
    except (ValueError, OSError) as error:
        return [str(error)]
    return []


def _name_problems(names: Any) -> list[str]:
    """What is no name of a split."""
    if not isinstance(names, Mapping):
        return [
            f"dataset.splits must be a mapping, got {names!r}; try '++dataset.splits={{test: dev}}'"
        ]
    return [
        f"dataset.splits.{ours}={theirs} is no split's name, and a split is read whole; type its "
        "name, and dataset.subset=100 for fewer training examples"
        for ours, theirs in names.items()
        if theirs is not None and (not isinstance(theirs, str) or "[" in theirs)
    ]


def refuse_doubles(names: Mapping[str, str | None], where: str) -> None:
    """Every split of ours is to be another one of theirs: selection must not see the test split.

    Args:
        names: ours -> theirs, None for none.
        where: the set, for messages.

    Raises:
        ValueError: a name is none of ours, or a split of theirs would be two of ours.
    """
    if unknown := sorted(set(names) - set(OURS)):
        raise ValueError(
            f"dataset.splits has {', '.join(unknown)}; its keys are our names, {', '.join(OURS)}: "
            "type '++dataset.splits={test: THEIR_NAME}'"
        )
    taken: dict[str, str] = {}
    for ours in OURS:
        theirs = names.get(ours, ours)
        if theirs is not None and theirs in taken:
            raise ValueError(
                f"the split {theirs!r} of {where} would be both {taken[theirs]} and {ours}; type "
                f"++dataset.splits.{ours}=ANOTHER, or =null to do without"
            )
        if theirs is not None:
            taken[theirs] = ours


def refuse_missing_shards(files: Sequence[Path]) -> None:
    """Let only whole downloads through: `train-00000-of-00002.parquet` needs the other one.

    Raises:
        ValueError: a numbered file of those that belong together is not there; it names them.
    """
    whole = set()
    for file in files:
        if numbered := re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)", file.stem):
            prefix, at, of, count = numbered.groups()
            whole |= {
                file.with_name(f"{prefix}{shard:0{len(at)}}{of}{count}{file.suffix}")
                for shard in range(int(count))
            }
    if missing := sorted(whole - set(files)):
        names = ", ".join(file.name for file in missing[:5]) + ", ..." * (len(missing) > 5)
        raise ValueError(
            f"{missing[0].parent} lacks {len(missing)} of {len(whole)} files: {names}; finish the "
            "download"
        )


def known_by(
    files: Mapping[str, Sequence[Path]], whole_up_to: int = 1 << 30
) -> list[list[str | int]]:
    """What the content of each file is known by, for the paths of each split.

    Above `whole_up_to` bytes in all, that is its place, size and time of change: every start of a
    run asks, and would read all of a large folder of images.
    """
    stats = [
        (split, path, file, file.stat())
        for split, paths in files.items()
        for path in paths
        for file in ([path] if path.is_file() else sorted(files_below(path)))
    ]
    if sum(stat.st_size for *_, stat in stats) > whole_up_to:
        return [
            [split, str(file.relative_to(path.parent)), stat.st_size, stat.st_mtime_ns]
            for split, path, file, stat in stats
        ]
    return [
        [split, str(file.relative_to(path)), file_digest(file)] for split, path, file, _ in stats
    ]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:10]
