"""Images decoded as they are asked for: for sets that are too large to keep as bytes.

The encoded files stay in Arrow files that `datasets` memory-maps. `Batches` has worker processes
decode whole batches ahead of use; a single batch that the run's own process asks for, such as the
partners of mixup, is decoded by threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_research.data.columns import find_columns
from kd_research.data.decode import VERSION
from kd_research.data.hub import Source, fingerprint, open_splits
from kd_research.data.labels import read_labels
from kd_research.data.pixels import WrongSizeError, read_image


class EncodedImages:
    """What of a tensor of images (N, C, H, W) uint8 a `Split` uses, decoded on demand.

    Args:
        rows: a `datasets.Dataset`.
        column: of the images.
        input_shape: (C, H, W).
        resize: whether images of other sizes are brought to that.
        workers: processes that decode the batches of an epoch.
        name: of the set and the split, for messages.
    """

    dtype = torch.uint8

    def __init__(
        self,
        rows: Any,
        column: str,
        input_shape: Sequence[int],
        resize: bool,
        workers: int,
        name: str,
    ):
        import datasets

        encoded = rows.with_format(None).select_columns([column])
        self._rows = encoded.cast_column(column, datasets.Image(decode=False))
        self._column, self._resize = column, resize
        self.shape = (len(rows), *input_shape)
        self.workers, self._name = workers, name
        self._threads: ThreadPoolExecutor | None = ThreadPoolExecutor(workers)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process, which decodes its batch by itself."""
        return {**self.__dict__, "_threads": None}

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """(B, C, H, W) uint8: the images at `index`, (B,) int64; `dim` is 0.

        Raises:
            ValueError: an image cannot be read, or has another size and may not be resized.
        """
        positions = index.tolist()
        cells = self._rows[positions][self._column]
        run = self._threads.map if self._threads else map
        images = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        for place, pixels in enumerate(run(self._decode, positions, cells)):
            images[place] = pixels
        return torch.from_numpy(images)

    def _decode(self, position: int, cell: dict[str, Any]) -> Any:
        shape = self.shape[1:]
        try:
            return read_image(cell, shape, self._resize)
        except WrongSizeError as error:
            width, height = error.size
            raise ValueError(
                f"{self._name}: image {position} is {width}x{height}, dataset.input_shape says "
                f"{shape[2]}x{shape[1]}; type dataset.resize=true"
            ) from None
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{self._name}: image {position} cannot be read: {error}") from error


def open_stream(
    source: Source,
    input_shape: Sequence[int],
    num_classes: int,
    resize: bool,
    store: Path,
    workers: int,
) -> tuple[dict[str, tuple[EncodedImages, Tensor]], list[str], str]:
    """Split -> (images, labels (N,)); the class names; and what names the content.

    Raises:
        FileNotFoundError, ValueError: with what was found and what to type.
    """
    splits = open_splits(source, store / "huggingface")
    column, kind, label_column = find_columns(source, splits["train"].features)
    if kind != "image":
        raise ValueError(f"{source}: only images can be streamed, {column!r} is text")
    labels, names = read_labels(source, splits, label_column, num_classes)
    opened = {
        split: (
            EncodedImages(rows, column, input_shape, resize, workers, f"{source}, split {split!r}"),
            torch.from_numpy(labels[split]),
        )
        for split, rows in splits.items()
    }
    return opened, names, repr([VERSION, fingerprint(source), list(input_shape), resize])
