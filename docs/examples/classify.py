"""Classify pictures with the model that ``ackd deploy`` serves.

``python classify.py /srv/model/served cat.jpg dog.jpg`` classifies each picture; without pictures
it reads their names from standard input, one per line, as a service would. After a deployment, the
new version classifies the next picture. Requires Python 3.8 or newer, numpy, onnxruntime and
pillow, but not this project.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FITS = {"crop": ImageOps.fit, "pad": ImageOps.pad, "stretch": Image.Image.resize}


def rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # convert would clip at 255
        levels = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    return picture.convert("RGB")


class ServedModel:
    """The model that the link ``served`` points to, reloaded when the link changes."""

    def __init__(self, served: Path, precision: str) -> None:
        self._served = served
        self._precision = precision
        self._folder: Path | None = None
        self._follow()

    def classify(self, picture: Image.Image) -> tuple[str, float, str]:
        """Return the most probable class, its probability, and the version of the model."""
        self._follow()
        # Preprocess like the training images.
        upright = rgb(ImageOps.exif_transpose(picture))
        fitted = self._fit(upright, (self._resize, self._resize), Image.Resampling.BICUBIC)
        start = (self._resize - self._size) // 2
        end = start + self._size
        pixels = np.asarray(fitted.crop((start, start, end, end)))
        (logits,) = self._session.run([self._output], {self._input: pixels[None]})
        shares = np.exp(logits[0] - logits[0].max())
        best = int(shares.argmax())
        return self._labels[best], float(shares[best] / shares.sum()), self._version

    def _follow(self) -> None:
        while True:
            # Resolve once, so that all files are of the same version.
            folder = self._served.resolve()
            if folder == self._folder:
                return
            try:
                self._load(folder)
            except FileNotFoundError:
                # Two deployments during loading removed this version: load the newest one.
                if self._served.resolve() == folder:
                    raise
            else:
                self._folder = folder

    def _load(self, folder: Path) -> None:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if self._precision not in model["files"]:
            sys.exit(f"error: {folder} has no {self._precision}; use one of {[*model['files']]}")
        content = (folder / model["files"][self._precision]["static"]["path"]).read_bytes()
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self._labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self._version = manifest["version"]
        self._size, self._resize = model["image_size"], model["resize"]
        self._fit = FITS[model["fit"]]
        self._input, self._output = model["input"], model["output"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify pictures with the served model.")
    parser.add_argument("served", type=Path, help="the link that ackd deploy switches")
    parser.add_argument("pictures", nargs="*", help="files; without them, names on standard input")
    parser.add_argument("--precision", default="fp32", help="one of the bundle, such as int8_u8s8")
    arguments = parser.parse_args()
    try:
        model = ServedModel(arguments.served, arguments.precision)
        for name in arguments.pictures or map(str.strip, sys.stdin):
            with Image.open(name) as picture:
                label, share, version = model.classify(picture)
            print(f"{name}: {label}, {share:.1%}, by version {version}", flush=True)
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
