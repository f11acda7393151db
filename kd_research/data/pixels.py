"""One encoded image into pixels, as it was meant to be seen. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError


class WrongSizeError(Exception):
    """An image of another size than it should have, (width, height)."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size


def read_image(
    cell: dict[str, Any] | None, shape: Sequence[int], resize: bool
) -> NDArray[np.uint8]:
    """One image as (C, H, W) uint8.

    Args:
        cell: {"bytes": ..., "path": ...}, as `datasets` stores images.
        shape: (C, H, W) to give; C is 1 (grey) or 3 (RGB).
        resize: whether other sizes are brought to H x W (bicubic, the centre).

    It is turned upright as its EXIF data say, 16 bits a pixel are brought to 8, and what is
    transparent is drawn on white.

    Raises:
        OSError: it is null, cannot be read, is too large to be safe, or its pixels have no known
            range.
        WrongSizeError: it has another size, and may not be resized.
    """
    channels, height, width = shape
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise OSError("there is no image, the cell is null")
    stream = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]
    try:
        with Image.open(stream) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            image = _on_white(_eight_bits(opened)).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError:  # whose own words are the address of our buffer
        raise OSError(f"{cell['path'] or 'its content'} is no image that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise OSError(f"{str(error).split(',')[0]}; bring it to a smaller size") from None
    if image.size != (width, height):
        if not resize:
            raise WrongSizeError(image.size)
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with bytes as pixels; Pillow itself would cut 16 bits off at 255."""
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise OSError(
            f"pixels of mode {image.mode} (32 bits) have no known range; save it with 8 or 16 bits"
        )
    return image.convert("RGB") if image.mode == "LAB" else image  # Pillow has no LAB to grey


def _on_white(image: Image.Image) -> Image.Image:
    """The image as a page shows it; Pillow itself would forget the transparency, often the shape.

    Of a drawing in black on nothing every pixel would be black.
    """
    if not image.has_transparency_data:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
