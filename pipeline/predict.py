"""``ackd predict``: classifies the user's pictures with the exported student."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import softmax

from models.errors import InputError, printable
from stages.data.arrays import middle
from stages.data.sources.decode import DamagedImageError, decode
from stages.formatting import percent
from stages.runtimes.base import Job
from stages.runtimes.exported import load_exported
from stages.runtimes.onnx_runtime import OnnxRuntime

_SHOWN = 3  # classes of each picture


def predict(pictures: Sequence[Path], precision: str) -> list[str]:
    """Return a line per picture with its most probable classes; prepare it like a test image.

    Raises:
        InputError: this precision was not exported, or pictures cannot be read; all of them are
            named.
    """
    exported = load_exported()
    classes = json.loads((exported.folder / "labels.json").read_text(encoding="utf-8"))
    if precision not in exported.precisions:
        raise InputError(
            f"--precision {precision}: not exported; use one of {', '.join(exported.precisions)}"
        )
    size, resize, fit = (exported.description[key] for key in ("image_size", "resize", "fit"))
    images, damaged = [], []
    for picture in pictures:
        try:
            opened = partial(Image.open, picture)
            pixels = decode(opened, resize, str(picture), fit)
            images.append(middle(pixels, size))
        except DamagedImageError as error:
            damaged.append(str(error))
    if damaged:
        raise InputError(f"cannot read {', '.join(damaged)}; give readable pictures")
    job = Job(np.stack(images), batch_size=1)
    (logits,) = OnnxRuntime().run(exported.file(precision, "static"), [job]).logits
    lines = []
    for picture, odds in zip(pictures, softmax(logits, axis=1), strict=True):
        best = np.argsort(-odds, kind="stable")[:_SHOWN]
        answers = (f"{printable(classes[k])} {percent(float(odds[k]))}" for k in best)
        lines.append(f"{printable(str(picture))}: {', '.join(answers)}")
    return lines
