"""Data sets of the Hugging Face hub: an id to download, or a local folder in its layout."""

import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from models.errors import InputError
from stages.data.sources.base import Source, SourceSplit, first_line, raise_if_disk_full, unknown
from stages.sections.data import Data

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_BINARY = ("binary", "large_binary")
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "fine_label")


def open_hub(location: str, data: Data, *, labeled: bool) -> Source:
    """Open a local folder, without network access, or an id of the hub with optional ``@revision``.

    A folder has the layout of the hub, or was written by ``save_to_disk``. The image column is the
    one of type ``Image``; of several, the one called image or img. The label column is the one of
    type ``ClassLabel``; of several, the one called label, else fine_label (CIFAR-100 has fine and
    coarse labels). If no column has the type, one with such a name serves if it holds encoded files
    or, for labels, integers or strings.

    Raises:
        InputError: the folder or id cannot be read, it has several configurations and none is
            named, or a column cannot be found.
    """
    splits = _load(location, data.config)
    features: Mapping[str, Any] = next(iter(splits.values())).features
    image = data.image_column or _find_column(features, datasets.Image, _IMAGE_NAMES, "image")
    label = data.label_column if labeled else None
    if labeled and not label:
        label = _find_column(features, datasets.ClassLabel, _LABEL_NAMES, "label")
    for key, column in (("image_column", image), ("label_column", label)):
        if column is not None and column not in features:
            raise unknown(f"data.{key}", column, features)
    kind, feature = _type(features[image]), features[image]
    # Declared as images, or encoded files, as from pandas.
    encoded = kind in _BINARY or (isinstance(feature, Mapping) and "bytes" in feature)
    if not (isinstance(feature, datasets.Image) or encoded):
        raise InputError(
            f"data.image_column: {image!r} holds {kind}, expected images; name another column"
        )
    class_names = None if label is None else _class_names(label, features[label])

    def open_split(name: str) -> SourceSplit:
        rows = splits[name].cast_column(image, datasets.Image(decode=False))
        labels = [0] * len(rows) if label is None else rows[label][:]
        for position, value in enumerate(labels):
            if value is None or (class_names and value < 0):
                raise InputError(
                    f"{location}: row {position} of split {name!r} has no label;"
                    " name a split whose labels are public"
                )
        return SourceSplit(
            labels=labels,
            image=lambda position: _open(rows[position][image]),
            describe=lambda position: f"row {position} of split {name!r}",
        )

    return Source(list(splits), open_split, class_names)


def _load(location: str, config: str | None) -> Mapping[str, Any]:
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # The library also raises whatever it logs as an error.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    name, _, revision = location.partition("@")
    advice = "correct the id, or check that the hub is reachable"
    if Path(location).expanduser().is_dir():
        name, revision = str(Path(location).expanduser()), ""
        advice = "expected a folder in the layout of the hub"
    elif Path(name).expanduser().is_dir():
        raise InputError(
            f"data.source: {name!r} is a local folder without revisions; remove @{revision}"
        )
    elif not _HUB_ID.fullmatch(name):
        raise InputError(
            f"data.source: {location!r} is neither a local folder nor an id of the hub;"
            " correct the path"
        )
    try:
        if any(Path(name, file).is_file() for file in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(name)
            return saved if isinstance(saved, dict) else {"train": saved}
        return dict(datasets.load_dataset(name, config, revision=revision or None))
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise_if_disk_full(error)
        if known := re.search(r"[Aa]vailable[^:]*: \[(.*)\]", str(error)):
            raise InputError(
                f"data.config is {config or 'null'}, expected a configuration of {location!r}:"
                f" {known[1]}"
            ) from None
        reason = error.__cause__ or error
        raise InputError(
            f"data.source: could not read {location!r} ({first_line(reason)}); {advice}"
        ) from None


def _find_column(
    features: Mapping[str, Any], kind: type, preferred: tuple[str, ...], what: str
) -> str:
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    for name in preferred:
        if name in found or (not found and name in features):
            return name
    problem = f"several columns hold {what}s" if found else f"no column is known to hold {what}s"
    raise InputError(f"data.{what}_column: {problem}; name one of {', '.join(found or features)}")


def _class_names(column: str, feature: Any) -> list[str] | None:
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    kind = _type(feature)
    if kind.removeprefix("u").startswith("int") or kind in ("string", "large_string", "bool"):
        return None
    raise InputError(
        f"data.label_column: {column!r} holds {kind}, expected integers or strings;"
        " name another column"
    )


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _open(cell: dict[str, Any]) -> Image.Image:
    if cell is None:
        raise OSError("the row is empty")
    return Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"])
