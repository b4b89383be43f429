"""The folder of exported models, proven unaltered before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.files import read_json, sha256

ONNX_FOLDER = Path("artifacts/onnx")
SHAPES = ("dynamic", "static")


@dataclass(frozen=True)
class Exported:
    """What ``model.json`` says of a folder whose files have the sums that it says."""

    folder: Path
    description: dict[str, Any]

    @property
    def precisions(self) -> list[str]:
        return list(self.description["files"])

    def file(self, precision: str, shape: str) -> Path:
        """The model with a ``dynamic`` or a ``static`` batch."""
        return self.folder / str(self.description["files"][precision][shape]["path"])

    def made_by(self, precision: str) -> str | None:
        """``calibration`` or ``fine-tuning`` for int8; None where nothing was quantised."""
        description = self.description["quantization"].get(precision)
        return None if description is None else str(description["made_by"])

    @property
    def golden(self) -> Path:
        return self.folder / str(self.description["golden"]["path"])

    def golden_batch(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Images ``[G, H, W, 3]`` and torch's logits ``[G, K]``."""
        with np.load(self.golden, allow_pickle=False) as golden:
            return golden["images"], golden["logits"]


def load_exported(folder: Path = ONNX_FOLDER) -> Exported:
    """Open what ``export_onnx`` wrote.

    Raises:
        InputError: the description is missing or damaged, or a file is missing or altered.
    """
    exported = Exported(folder, read_json(folder / "model.json"))
    files = exported.description["files"]
    for entry in [
        *(files[precision][shape] for precision in files for shape in SHAPES),
        exported.description["golden"],
    ]:
        path = folder / entry["path"]
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; run `dvc repro --force export_onnx` to make it again"
            )
        if sha256(path) != entry["sha256"]:
            raise InputError(
                f"{path}: altered since its export (its sha256 is not the one in model.json);"
                " run `dvc repro --force export_onnx` to make it again"
            )
    return exported
