"""From ``data.source`` to a source."""

from __future__ import annotations

from models.errors import InputError
from stages.data.sources.base import Source, unknown
from stages.sections.data import Data

_SCHEMES = ("digits", "hf", "imagefolder", "torchvision")


def open_source(data: Data) -> Source:
    """The source that ``data.source`` names.

    Each library is imported when it is used, not before.

    Raises:
        InputError: the scheme is unknown, or what it names cannot be opened.
    """
    scheme, colon, location = data.source.partition(":")
    if scheme not in _SCHEMES:
        raise unknown("data.source: the scheme", scheme, _SCHEMES)
    if (scheme == "digits") == bool(colon) or (colon and not location):
        form = "digits" if scheme == "digits" else f"{scheme}:<where>"
        raise InputError(f"data.source is {data.source!r}, expected {form}; correct it")
    if scheme == "hf":
        from stages.data.sources.hub import open_hub

        return open_hub(location, data.config, data.image_column, data.label_column)
    for key in ("config", "image_column", "label_column"):
        if getattr(data, key) is not None:
            raise InputError(f"data.{key} is for hf: sources, not for {scheme}; set it to null")
    if scheme == "imagefolder":
        from stages.data.sources.image_folder import open_image_folder

        named = (data.train_split, data.val_split, data.test_split)
        return open_image_folder(location, [name for name in named if name])
    if scheme == "torchvision":
        from stages.data.sources.torchvision_sets import open_torchvision

        return open_torchvision(location)
    from stages.data.sources.digits import open_digits

    return open_digits()
