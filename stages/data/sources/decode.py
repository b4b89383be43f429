"""From an encoded image of any mode and size to RGB pixels."""

from __future__ import annotations

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
}
"""By EXIF orientation."""


_FITS: dict[str, Callable[..., Image.Image]] = {
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
    "stretch": Image.Image.resize,
}


class DamagedImageError(Exception):
    """No image, or a damaged or truncated one; the message names it and says what is wrong."""


def decode(
    open_image: Callable[[], Image.Image], size: int | None, description: str, fit: str = "crop"
) -> npt.NDArray[np.uint8]:
    """The pixels ``[H, W, 3]`` of an image.

    The EXIF orientation is honoured; damaged EXIF is none. Other modes become RGB as PIL converts
    them: grey levels and palettes are spread over the channels, CMYK is converted, and transparency
    is dropped, which shows what lies beneath. Levels of 16 bits are scaled to 8.

    Args:
        open_image: opens the file; it may still be undecoded.
        size: height and width to bring it to by bicubic, antialiased resizing. An image that has
            the size stays as it is; None leaves every one as it is.
        description: names the image in an error.
        fit: what becomes of other sides than square ones, as ``data.fit`` says.

    Raises:
        DamagedImageError: whatever a decoder raised.
    """
    try:
        with open_image() as image:
            upright = _rgb(_upright(image))
            if size is not None and upright.size != (size, size):
                upright = _FITS[fit](upright, (size, size), Image.Resampling.BICUBIC)
    except Exception as error:  # on a damaged file, decoders raise nearly everything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image" if unknown else first_line(error)
        raise DamagedImageError(f"{description} ({reason})") from None
    return np.asarray(upright)


def _upright(image: Image.Image) -> Image.Image:
    """As ``ImageOps.exif_transpose``, which writes the EXIF anew and fails where a tag is odd."""
    image.load()
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are whole
        method = None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip at 255
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its levels are of 32 bits, mode {image.mode}, where 8 or 16 are expected"
        )
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns
    return image.convert("RGB")
