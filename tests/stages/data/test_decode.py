"""Decode images of all kinds to RGB pixels, against known values."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from stages.data.sources.decode import DamagedImageError, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def pixels(data: bytes, size: int | None = None) -> np.ndarray:
    return decode(lambda: Image.open(io.BytesIO(data)), size, "the image")


NOISE = np.random.default_rng(0).integers(0, 256, (32, 96, 3), dtype=np.uint8)
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
WORDS = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
PALETTE = Image.new("P", (2, 1))
PALETTE.putpalette([10, 20, 30, 200, 100, 50])
PALETTE.putdata([0, 1])


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        (encoded(Image.fromarray(NOISE)), None, NOISE),
        (encoded(Image.fromarray(NOISE)), 32, NOISE[:, 32:64]),  # cropped about its centre
        (encoded(Image.fromarray(GREY)), None, np.repeat(GREY[..., None], 3, axis=2)),
        # 16-bit values are scaled, not clipped.
        (encoded(WORDS), None, np.array([[[level] * 3 for level in (0, 1, 128, 255)]])),
        # Transparency of palettes and of colours is dropped.
        (encoded(PALETTE, transparency=b"\x00\xff"), None, [[[10, 20, 30], [200, 100, 50]]]),
        (encoded(Image.new("RGBA", (1, 1), (1, 2, 3, 0))), None, [[[1, 2, 3]]]),
        (encoded(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), None, [[[0, 255, 255]]]),
        (encoded(Image.new("RGB", (8, 8), (9, 8, 7))), 32, np.full((32, 32, 3), (9, 8, 7))),
    ],
    ids=["rgb", "wide", "grey", "16 bits", "palette", "transparent", "cmyk", "grown"],
)
def test_every_mode_becomes_rgb(data, size, expected):
    np.testing.assert_array_equal(pixels(data, size), expected)


@pytest.mark.parametrize(
    ("fit", "columns"),
    [("crop", [80, 80, 160, 160]), ("pad", [0, 80, 160, 240]), ("stretch", [0, 80, 160, 240])],
)
def test_a_wide_image_becomes_square(fit, columns):
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:] = np.array([0, 0, 80, 80, 160, 160, 240, 240], np.uint8)[None, :, None]
    got = decode(lambda: Image.fromarray(wide), 4, "the image", fit)
    assert got.shape == (4, 4, 3)
    if fit == "pad":
        assert got[[0, 3]].max() == 0
    middle = got[1, :, 0].astype(int)
    assert abs(middle - columns).max() <= 15  # bicubic


def test_thirty_two_bits_are_refused():
    data = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    with pytest.raises(DamagedImageError, match=r"the image \(32-bit levels"):
        pixels(data)


def test_exif_orientation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :8] = 255  # white on the left, and on top after rotation
    got = pixels(encoded(Image.fromarray(picture), "JPEG", exif=exif, quality=100))
    assert got.shape == (16, 8, 3)
    assert got[:6].min() > 200
    assert got[-6:].max() < 50


def test_shrinking_is_antialiased():
    squares = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    got = pixels(encoded(Image.fromarray(squares)), 16)
    assert got.shape == (16, 16, 3)
    assert abs(got.astype(int) - 127).max() <= 20  # picking single pixels would give 0 and 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_named(kind):
    noise = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DamagedImageError, match=r"^the image \(.+\)$"):
        pixels(data[: len(data) // 2])


@pytest.mark.parametrize("error", [AttributeError, struct.error, MemoryError])
def test_whatever_a_decoder_raises_names_the_image(error):
    def fail() -> Image.Image:
        raise error("odd\nand long")

    with pytest.raises(DamagedImageError, match=r"^the image \(odd\)$"):
        decode(fail, None, "the image")


def test_the_orientation_is_read_from_damaged_exif():
    # Orientation 6, and an XResolution of text where a rational is expected.
    entries = [struct.pack("<HHII", 0x112, 3, 1, 6), struct.pack("<HHII", 0x11A, 2, 8, 38)]
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + b"".join(entries) + b"\0\0\0\0" + b"72 dpi\0\0"
    assert pixels(encoded(Image.new("RGB", (16, 8)), "JPEG", exif=exif)).shape == (16, 8, 3)
    # Not readable at all.
    whole = pixels(encoded(Image.new("RGB", (16, 8)), "JPEG", exif=b"Exif\0\0II*\0\xff"))
    assert whole.shape == (8, 16, 3)
