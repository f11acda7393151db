"""One encoded image into pixels: what Pillow's own conversion would quietly get wrong."""

import io

import numpy as np
import pytest
from conftest_data import pictures, write_parquet
from PIL import Image

from kd_research.data import stream
from kd_research.data.decode import decoded, read_image
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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_drawn_on_white(mode, channels):
    """The shape is in the alpha channel, all colours are black: every pixel was 0."""
    alpha = np.array([[0, 255], [128, 0]], np.uint8)
    drawing = Image.new("LA", (2, 2))
    drawing.putalpha(Image.fromarray(alpha))
    expected = 255 - alpha
    settings = {}
    if mode == "P":  # one colour of the palette is the transparent one
        drawing = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        drawing.putpalette([0, 0, 0, 0, 0, 0])
        settings, expected = {"transparency": 0}, np.where(alpha, 0, 255)
    given = read_image(encoded(drawing.convert(mode), **settings), (channels, 2, 2), False)
    assert (given == expected).all()


def test_training_images_that_are_all_equal_are_refused(tmp_path):
    black = [np.zeros((6, 8, 3), np.uint8)] * 6
    write_parquet(tmp_path / "set", "train", black, [0, 1, 2] * 2)
    with pytest.raises(ValueError, match=r"all 6 training images are equal \(all pixels are 0\)"):
        decoded(Source(str(tmp_path / "set")), 3, tmp_path / "store", input_shape=(3, 6, 8))


def test_a_streams_content_names_the_decoder(parquet, tmp_path, monkeypatch):
    def content():
        return stream.open_stream(Source(str(parquet)), [3, 6, 8], 3, False, tmp_path, 1)[2]

    before = content()
    assert content() == before
    monkeypatch.setattr(stream, "VERSION", stream.VERSION + 1)
    assert content() != before


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_an_image_keeps_its_drawing(mode, channels):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, 4:] = 255
    drawing = Image.fromarray(pixels)
    if mode == "LAB":  # Pillow itself only converts from it: white is 255, 0, 0
        pixels[:, 4:, 1:] = 0
        drawing = Image.frombytes("LAB", (8, 8), pixels.tobytes())
    else:
        drawing = drawing.convert(mode)
    kind = {"YCbCr": "JPEG", "CMYK": "JPEG", "LAB": "TIFF"}.get(mode, "PNG")
    given = read_image(encoded(drawing, kind), (channels, 8, 8), False)
    assert given[:, :, :3].max() < 40
    assert given[:, :, 5:].min() > 215
