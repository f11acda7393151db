"""One encoded image into pixels: what Pillow's own conversion would quietly get wrong."""

import io

import numpy as np
import pytest
from conftest_data import pictures
from PIL import Image

from kd_research.data import stream
from kd_research.data.decode import read_image
from kd_research.data.hub import Source


def encoded(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_to_eight(kind, channels):
    pixels = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    given = read_image(encoded(Image.fromarray(pixels), kind), (channels, 8, 8), False)
    assert given.shape == (channels, 8, 8)
    assert (given == np.round(pixels / 257)).all()
    assert given.max() == 255


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(dtype):
    cell = encoded(Image.fromarray(np.ones((8, 8), dtype)), "TIFF")
    with pytest.raises(OSError, match="have no known range; save it with 8 or 16 bits"):
        read_image(cell, (1, 8, 8), False)


def test_an_image_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    pixels = pictures(1)[0]
    cell = encoded(Image.fromarray(pixels), exif=exif)
    given = read_image(cell, (3, 8, 6), False)  # 8 wide and 6 high as it is stored
    assert np.array_equal(given.transpose(1, 2, 0), np.rot90(pixels, -1))


def test_a_streams_content_names_the_decoder(parquet, tmp_path, monkeypatch):
    def content():
        return stream.open_stream(Source(str(parquet)), [3, 6, 8], 3, False, tmp_path, 1)[2]

    before = content()
    assert content() == before
    monkeypatch.setattr(stream, "VERSION", stream.VERSION + 1)
    assert content() != before
