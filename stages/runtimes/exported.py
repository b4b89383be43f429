"""Open and verify the folder of exported models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.devices.proof import DeviceError, read_description
from stages.files import sha256

ONNX_FOLDER = Path("artifacts/onnx")
SHAPES = ("dynamic", "static")


@dataclass(frozen=True)
class Exported:
    """A folder whose files match their checksums in ``model.json``."""

    folder: Path
    description: dict[str, Any]

    @property
    def precisions(self) -> list[str]:
        return list(self.description["files"])

    def entry(self, precision: str, shape: str) -> dict[str, Any]:
        """Return ``path``, ``sha256`` and ``bytes`` of a model."""
        entry: dict[str, Any] = self.description["files"][precision][shape]
        return entry

    @property
    def failed(self) -> dict[str, str]:
        """The reason for each precision that was not exported."""
        return dict(self.description["failed"])

    def file(self, precision: str, shape: str) -> Path:
        """Return the model with a ``dynamic`` or ``static`` batch."""
        return self.folder / str(self.entry(precision, shape)["path"])

    @property
    def golden(self) -> Path:
        return self.folder / str(self.description["golden"]["path"])

    def golden_batch(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Load images ``[G, H, W, 3]`` and torch's logits ``[G, K]``."""
        with np.load(self.golden, allow_pickle=False) as golden:
            return golden["images"], golden["logits"]

    def sums(self, *shapes: str) -> dict[Path, str]:
        """Return the stated SHA-256 of the golden batch and of the models with these shapes."""
        entries = [self.entry(name, shape) for name in self.precisions for shape in shapes]
        entries.append(self.description["golden"])
        return {self.folder / entry["path"]: str(entry["sha256"]) for entry in entries}


def load_exported(folder: Path = ONNX_FOLDER) -> Exported:
    """Open and verify the models that ``export_onnx`` wrote.

    Raises:
        InputError: the description is missing or damaged, or a file is missing or altered.
    """
    remedy = "run `dvc repro --force export_onnx` to export again"
    try:
        exported = Exported(folder, read_description(folder, remedy))
    except DeviceError as error:
        raise InputError(f"{folder}/{error}") from None
    for path, digest in exported.sums(*SHAPES).items():
        if not path.is_file():
            raise InputError(f"{path}: no such file; {remedy}")
        if sha256(path) != digest:
            raise InputError(
                f"{path}: altered since its export (its sha256 differs from model.json); {remedy}"
            )
    return exported
