"""Classification sets through Hugging Face `datasets`: a Hub name, local Parquet or image folders.

Finds the splits, and refuses what does not fit with what was found and what to type. Imports
`datasets` only when something must be decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_research.data.files import (
    OURS,
    READERS,
    SPLIT_NAMES,
    known_by,
    local_files,
    patterns,
    refuse_doubles,
    refuse_missing_shards,
)
from kd_research.records.outside import NO_ROOM

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Source:
    """Where a data set is and what its parts are called; None means "infer it".

    Attributes:
        root: a local file of rows (Parquet, CSV, JSON lines) or of plain text, a folder with such
            (`train-*.parquet`, also in a folder below it) or an image folder (`train/CLASS/x.png`,
            or `CLASS/x.png`); it goes before `path`.
        path: a Hub name, such as "uoft-cs/cifar10".
        name: the Hub set's configuration; with `root` the folder below it.
        splits: our split -> theirs; a split whose name is None is left out.
        input_column: the image or text column.
        label_column: the label column.
        renumber: whether whole numbers as labels are numbered anew from 0, in their order.
        input_columns: of several images an example, their columns and the channels of each.
    """

    root: str | None = None
    path: str | None = None
    name: str | None = None
    splits: Mapping[str, str | None] | None = None
    input_column: str | None = None
    label_column: str | None = None
    renumber: bool = False
    input_columns: Mapping[str, int] | None = None

    def __str__(self) -> str:
        return str(self.root) if self.root else f"{self.path}" + (f"/{self.name}" * bool(self.name))


def fingerprint(source: Source) -> list[Any]:
    """What the content of `source` is known by before it is decoded: a JSON value."""
    settings: list[Any] = [source.name, dict(source.splits or {})]
    settings += [source.input_column, source.label_column]
    settings += ["renumber"] if source.renumber else []
    settings += [list(source.input_columns.items())] if source.input_columns else []
    if source.root is None:
        return ["hub", source.path, *settings]
    files = local_files(Path(source.root).expanduser(), source.name)
    return ["local", known_by(files), *settings]


def _load(
    source: Source, wanted: Mapping[str, str | None], files: Mapping[str, list[Path]], cache: Path
) -> dict[str, datasets.Dataset]:
    """Their split name -> rows, of local files or from the Hub."""
    import datasets

    progress = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if source.root is not None:
            first = files["train"][0]
            is_folder = first.is_dir()
            reader = "imagefolder" if is_folder else READERS.get(first.suffix.lower(), "text")
            options: dict[str, Any] = {"text": {"sample_by": "document"}}.get(reader, {})
            if reader == "csv":
                options = {"sep": _separator(first)}
            asked = {wanted.get(split, split) for split in OURS}
            return dict(
                datasets.load_dataset(
                    reader,
                    data_files={
                        split: [pattern for path in paths for pattern in patterns(path)]
                        for split, paths in files.items()
                        if split in asked
                    },
                    cache_dir=str(cache),
                    **options,
                )
            )
        return dict(datasets.load_dataset(source.path, source.name, cache_dir=str(cache)))
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"could not get {source} from the Hub ({error}); with no network, download its "
            "Parquet files elsewhere and type dataset.root=FOLDER"
        ) from error
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            raise OSError(
                cause.errno,
                f"the disk is full while {source} is unpacked into {cache}; free some space or "
                "type output_dir=/another/disk",
            ) from error
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(
            f"the files of {source} cannot be read as one data set: {reason[0]} (...{reason[-1]}); "
            "every split needs rows, the same columns and whole files; ++dataset.splits.NAME=null "
            "leaves one out"
        ) from error
    finally:
        if progress:
            datasets.enable_progress_bars()


def _separator(file: Path) -> str:
    """What stands between the columns of a CSV file's first line, most often."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        line = stream.readline()
    return max((",", ";", "\t"), key=line.count)


def open_splits(source: Source, cache: Path) -> dict[str, datasets.Dataset]:
    """Our split name -> rows, images not decoded.

    Args:
        source: what to open.
        cache: a folder for what `datasets` makes of the files.

    Raises:
        FileNotFoundError, ValueError: nothing is there, a split has no rows or is missing, or one
            of theirs would be two of ours.
        OSError: the disk is full.
    """
    if source.root is None and source.path is None:
        raise ValueError("a data set needs dataset.root=FOLDER or dataset.path=HUB_NAME")
    wanted, files = dict(source.splits or {}), dict[str, list[Path]]()
    if source.root is not None:
        # a file's name gives the split as we call it, whatever the Hub's set does
        wanted = {ours: name and SPLIT_NAMES.get(name, name) for ours, name in wanted.items()}
        files = local_files(Path(source.root).expanduser(), source.name)
        for ours in OURS:
            refuse_missing_shards(files.get(wanted.get(ours, ours) or "", []))
    refuse_doubles(wanted, str(source))
    found = _load(source, wanted, files, cache)
    splits = {}
    for ours in OURS:
        theirs = wanted.get(ours, ours)
        if theirs is None or (theirs not in found and ours not in wanted):
            continue
        if theirs not in found:
            raise ValueError(
                f"{source} has no split {theirs!r}, it has {sorted(found)}; "
                f"type ++dataset.splits.{ours}=NAME, or =null to do without"
            )
        if len(found[theirs]) == 0:
            raise ValueError(
                f"the split {theirs!r} of {source} is empty; type ++dataset.splits.{ours}=null"
            )
        splits[ours] = found[theirs]
    if "train" not in splits:
        raise ValueError(
            f"{source} has no split 'train', it has {sorted(found)}; "
            "type ++dataset.splits.train=NAME"
        )
    return splits
