"""Decode images of any mode and size to RGB pixels."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from stages.data.sources.base import first_line

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # the transpose that undoes each EXIF orientation


_FITS: dict[str, Callable[..., Image.Image]] = {
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
    "stretch": Image.Image.resize,
}


class DamagedImageError(Exception):
    """A file is no image, damaged or truncated; the message names it and the problem."""


def decode(
    open_image: Callable[[], Image.Image], size: int | None, description: str, fit: str = "crop"
) -> npt.NDArray[np.uint8]:
    """Decode an image to pixels ``[H, W, 3]``.

    The EXIF orientation is applied; damaged EXIF is ignored. PIL converts other modes to RGB: grey
    levels and palettes are expanded, CMYK is converted, and transparency is dropped, which shows
    the colours beneath. 16-bit levels are scaled to 8 bits.

    Args:
        open_image: opens the file, which need not be decoded yet.
        size: target height and width, by bicubic, antialiased resizing; None, or an image of that
            size, means no resizing.
        description: names the image in an error.
        fit: how to make images square; see ``data.fit``.

    Raises:
        DamagedImageError: the decoder failed for any reason.
    """
    try:
        with open_image() as image:
            upright = _rgb(_upright(image))
            if size is not None and upright.size != (size, size):
                upright = _FITS[fit](upright, (size, size), Image.Resampling.BICUBIC)
    except Exception as error:  # on damaged files, decoders raise almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image" if unknown else first_line(error)
        raise DamagedImageError(f"{description} ({reason})") from None
    return np.asarray(upright)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; ``ImageOps.exif_transpose`` would fail on invalid EXIF tags."""
    image.load()
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF; the pixels are intact
        method = None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip at 255
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit levels, mode {image.mode}, expected 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns if converted straight to RGB
    return image.convert("RGB")
