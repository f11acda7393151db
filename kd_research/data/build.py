"""Data modules for the sets that Hugging Face `datasets` reads: what `conf/dataset/` names.

`settings` are `DataModule`'s own arguments, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kd_research.data import sources
from kd_research.data.checks import are_numbers, is_whole
from kd_research.data.cuts import TrainingPart
from kd_research.data.hub import Source
from kd_research.data.module import DataModule
from kd_research.data.table import Table
from kd_research.data.text import Tokens


def images(
    root: str | None,
    path: str | None,
    config_name: str | None,
    splits: Mapping[str, str | None],
    input_column: str | None,
    label_column: str | None,
    resize: bool,
    input_shape: Sequence[int],
    num_classes: int,
    store: str,
    stream_workers: int = 0,
    decode_size: int | None = None,
    renumber: bool = False,
    input_columns: Mapping[str, int] | None = None,
    **settings: Any,
) -> DataModule:
    """A set of images.

    Args:
        root: a local folder; goes before `path`.
        path: a Hub name.
        config_name: the Hub set's configuration.
        splits: train, validation, test -> the set's own names; a null leaves one out.
        input_column: of the images; None infers it.
        label_column: None infers it.
        resize: whether images of other sizes are brought to `input_shape`.
        input_shape: (channels, height, width); 1 channel is grey, 3 are RGB; of several columns
            those of all.
        num_classes: C.
        store: the folder of decoded sets.
        stream_workers: processes that decode the images anew each epoch, for a set that is too
            large to be kept decoded; 0 decodes once, into `store`.
        decode_size: the side of the square that images are decoded to (shorter side, then the
            centre), where that is larger than `input_shape`: training crops from it, evaluation
            takes its centre. None decodes to `input_shape`.
        renumber: whether whole numbers as labels are numbered anew from 0, in their order.
        input_columns: where an example is several images of one size (colour and depth, photograph
            and sketch), their columns and the channels of each, 1 or 3, which stand behind each
            other; a net's `view.columns` picks from them. None is one image.
        settings: DataModule's.

    Raises:
        ValueError: `input_shape` is none of an image, a number is not whole, or `decode_size` is
            without `resize` or below the sides of `input_shape`.
    """
    columns = _check_columns(input_columns, input_column, input_shape, stream_workers)
    _check_images(input_shape, resize, stream_workers, decode_size, columns is not None)
    shape = [input_shape[0], decode_size, decode_size] if decode_size else list(input_shape)
    named = (root, path, config_name, dict(splits), input_column, label_column)
    source = Source(*named, bool(renumber), columns)
    load = partial(sources.images, source, shape, num_classes, resize, Path(store))
    if stream_workers:
        load = partial(
            sources.stream, source, shape, num_classes, resize, Path(store), stream_workers
        )
    return DataModule(
        source=load,
        input_shape=input_shape,
        num_classes=num_classes,
        decoded_shape=shape,
        **settings,
    )


def _check_columns(
    columns: Any, column: str | None, input_shape: Any, stream_workers: int
) -> dict[str, int] | None:
    """The columns of several images an example, each with its channels; None where it is one.

    Raises:
        ValueError: they are no such columns, or do not go with the other settings.
    """
    if columns is None:
        return None
    given = dict(columns) if isinstance(columns, Mapping) else {}
    if not given or not all(is_whole(each) and each in (1, 3) for each in given.values()):
        raise ValueError(
            "dataset.input_columns must be columns of images, each with its channels, 1 (grey) or "
            f"3 (RGB), got {columns}; try 'dataset.input_columns={{image: 3, depth: 1}}'"
        )
    if column is not None:
        raise ValueError(
            f"dataset.input_column={column} is one image, dataset.input_columns are several; "
            "leave one of them out"
        )
    if stream_workers:
        raise ValueError(
            "dataset.input_columns are decoded once, not anew each epoch; type "
            "dataset.stream_workers=0"
        )
    if are_numbers(input_shape, 3) and sum(given.values()) != input_shape[0]:
        sides = f"{input_shape[1]},{input_shape[2]}"
        raise ValueError(
            f"dataset.input_shape={[*input_shape]} has {input_shape[0]} channels, "
            f"dataset.input_columns have {sum(given.values())}; "
            f"type dataset.input_shape=[{sum(given.values())},{sides}]"
        )
    return {str(name): int(channels) for name, channels in given.items()}


def _check_images(
    input_shape: Sequence[int],
    resize: bool,
    stream_workers: int,
    decode_size: int | None,
    several: bool,
) -> None:
    """Refuse numbers that no set of images has, each with what to type."""
    given = list(input_shape) if isinstance(input_shape, Sequence) else input_shape
    if not are_numbers(given, 3) or not all(is_whole(side, 1) for side in given):
        raise ValueError(
            "dataset.input_shape must be three whole numbers, [channels,height,width], got "
            f"{given}; try dataset.input_shape=[3,32,32]"
        )
    if given[0] not in (1, 3) and not several:
        raise ValueError(
            f"dataset.input_shape={given} has {given[0]} channels, images have 1 (grey) or 3 "
            "(RGB), and they come first; try dataset.input_shape=[3,32,32], or name several "
            "columns by dataset.input_columns"
        )
    if not is_whole(stream_workers):
        raise ValueError(
            f"dataset.stream_workers must be a whole number >= 0, got {stream_workers}; "
            "try dataset.stream_workers=8"
        )
    if decode_size is not None and not is_whole(decode_size, 1):
        raise ValueError(
            f"dataset.decode_size must be a whole number >= 1, or null, got {decode_size}; "
            f"try dataset.decode_size={max(given[1:])}"
        )
    if decode_size is not None and (not resize or decode_size < max(input_shape[1:])):
        raise ValueError(
            f"dataset.decode_size={decode_size} needs dataset.resize=true and no less than the "
            f"sides of dataset.input_shape={[*input_shape]}; try dataset.decode_size=null"
        )


def text(
    root: str | None,
    path: str | None,
    config_name: str | None,
    splits: Mapping[str, str | None],
    input_column: str | None,
    label_column: str | None,
    tokens: str,
    vocab_size: int,
    max_length: int,
    pretrained: str | None,
    num_classes: int,
    store: str,
    renumber: bool = False,
    **settings: Any,
) -> DataModule:
    """A set of sentences, for models called as `model(input_ids=..., attention_mask=...)`.

    Args:
        root: a local folder; goes before `path`.
        path: a Hub name.
        config_name: the Hub set's configuration.
        splits: train, validation, test -> the set's own names; a null leaves one out.
        input_column: of the sentences; None infers it.
        label_column: None infers it.
        tokens: "word" or "bpe", made from the training part, or "pretrained".
        vocab_size: number of token ids, at most.
        max_length: longer sentences are cut.
        pretrained: a folder, file or Hub name of a Hugging Face tokenizer.
        num_classes: C.
        store: the folder of decoded sets.
        renumber: whether whole numbers as labels are numbered anew from 0, in their order.
        settings: DataModule's.

    Raises:
        ValueError: an augmentation is given.
    """
    if settings.get("augment") is not None:
        raise ValueError(
            "dataset.augment is for images, this data set is text: type none of its settings"
        )
    source = Source(
        root, path, config_name, dict(splits), input_column, label_column, bool(renumber)
    )
    description = Tokens(tokens, vocab_size, max_length, pretrained)
    load = partial(sources.text, source, num_classes, description, Path(store), _part(settings))
    return DataModule(source=load, num_classes=num_classes, **settings)


def table(
    root: str | None,
    path: str | None,
    config_name: str | None,
    splits: Mapping[str, str | None],
    input_columns: Sequence[str] | None,
    label_column: str | None,
    input_shape: Sequence[int],
    num_classes: int,
    store: str,
    renumber: bool = False,
    **settings: Any,
) -> DataModule:
    """A table of numbers and categories, for models of one row of numbers.

    Args:
        root: a local file or folder; goes before `path`.
        path: a Hub name.
        config_name: the Hub set's configuration.
        splits: train, validation, test -> the set's own names; a null leaves one out.
        input_columns: names; None is all but the label's.
        label_column: None infers it.
        input_shape: (F,): a number is one, a category as many as it has values.
        num_classes: C.
        store: the folder of decoded sets.
        renumber: whether whole numbers as labels are numbered anew from 0, in their order.
        settings: DataModule's.

    Raises:
        ValueError: an augmentation is given, or `input_shape` is not that of one row.
    """
    if settings.get("augment") is not None:
        raise ValueError(
            "dataset.augment is for images, this data set is a table: type none of its settings"
        )
    if not are_numbers(input_shape, 1) or not is_whole(input_shape[0], 1):
        raise ValueError(
            f"dataset.input_shape of a table is [COLUMNS], got {input_shape}; "
            "try dataset.input_shape=[4]"
        )
    shape = [input_shape[0]]
    columns = Table(None if input_columns is None else tuple(input_columns))
    source = Source(root, path, config_name, dict(splits), None, label_column, bool(renumber))
    load = partial(sources.table, source, shape, num_classes, columns, Path(store), _part(settings))
    return DataModule(source=load, input_shape=shape, num_classes=num_classes, **settings)


def _part(settings: Mapping[str, Any]) -> TrainingPart:
    return TrainingPart(*(settings[key] for key in ("val_fraction", "test_fraction", "split_seed")))
