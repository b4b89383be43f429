"""Open the source that ``data.source`` names."""

from collections.abc import Sequence

from models.errors import InputError
from stages.data.sources.base import SPLIT_NAMES, Source, SourceSplit, unknown
from stages.sections.data import Data

_SCHEMES = ("digits", "hf", "imagefolder", "torchvision")


def open_unlabeled(data: Data) -> SourceSplit:
    """Open the images of ``data.unlabeled`` and ignore their labels.

    Raises:
        InputError: as :func:`open_source`, or it is unclear which split to use.
    """
    assert data.unlabeled is not None
    # Splits and columns are named for data.source, so they apply only if it is the same source.
    given = data if data.unlabeled == data.source else Data(source=data.unlabeled)
    try:
        scheme, _, location = given.source.partition(":")
        if scheme == "imagefolder" and location:
            from stages.data.sources.image_folder import open_flat_folder

            return open_flat_folder(location)
        source = open_source(given, labeled=False)
        return source.open_split(given.train_split or _unlabeled_split(source.split_names))
    except InputError as error:
        raise InputError(f"data.unlabeled: {str(error).removeprefix('data.source: ')}") from None


def _unlabeled_split(names: Sequence[str]) -> str:
    known = ("unlabeled", "unsupervised", *SPLIT_NAMES["train"])
    found = [name for called in known for name in names if name.lower() == called]
    if not found and len(names) > 1:
        raise InputError(f"no split of {', '.join(names)} is called unlabeled or train")
    return [*found, *names][0]


def open_source(data: Data, *, labeled: bool = True) -> Source:
    """Open the source that ``data.source`` names, importing only its library.

    Unless ``labeled``, a hub data set's labels are all 0.

    Raises:
        InputError: the scheme is unknown, or the source cannot be opened.
    """
    scheme, colon, location = data.source.partition(":")
    if scheme not in _SCHEMES:
        raise unknown("data.source: the scheme", scheme, _SCHEMES)
    if (scheme == "digits") == bool(colon) or (colon and not location):
        form = "digits" if scheme == "digits" else f"{scheme}:<where>"
        raise InputError(f"data.source is {data.source!r}, expected {form}; correct it")
    if scheme == "hf":
        from stages.data.sources.hub import open_hub

        return open_hub(location, data, labeled=labeled)
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
