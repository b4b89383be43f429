"""The folder of exported models, verified before it is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from models.errors import InputError
from stages.files import sha256

ONNX_FOLDER = Path("artifacts/onnx")
SHAPES = ("dynamic", "static")

# Without a slash: what a description names lies beside it.
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
_Text = Annotated[str, StringConstraints(pattern=r"^[ -~]+$")]


class _File(BaseModel):
    path: _Name
    sha256: _Text


class _Shapes(BaseModel):
    dynamic: _File
    static: _File


class _Description(BaseModel):
    """What every reader of ``model.json`` needs; it may hold more."""

    network: _Text
    num_classes: Annotated[int, Field(ge=1)]
    image_size: Annotated[int, Field(ge=1)]
    input: _Text
    output: _Text
    files: Annotated[dict[_Name, _Shapes], Field(min_length=1)]
    golden: _File


@dataclass(frozen=True)
class Exported:
    """A folder as ``model.json`` describes it, with files of the sums that are stated there."""

    folder: Path
    description: dict[str, Any]

    @property
    def precisions(self) -> list[str]:
        """Those that were exported."""
        return list(self.description["files"])

    def entry(self, precision: str, shape: str) -> dict[str, Any]:
        """``path``, ``sha256`` and ``bytes`` of the model with this batch."""
        entry: dict[str, Any] = self.description["files"][precision][shape]
        return entry

    @property
    def failed(self) -> dict[str, str]:
        """Why the others were not."""
        return dict(self.description["failed"])

    def file(self, precision: str, shape: str) -> Path:
        """The model with a ``dynamic`` or a ``static`` batch."""
        return self.folder / str(self.entry(precision, shape)["path"])

    @property
    def golden(self) -> Path:
        return self.folder / str(self.description["golden"]["path"])

    def golden_batch(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Images ``[G, H, W, 3]`` and torch's logits ``[G, K]``."""
        with np.load(self.golden, allow_pickle=False) as golden:
            return golden["images"], golden["logits"]

    def sums(self, *shapes: str) -> dict[Path, str]:
        """SHA-256 of the golden batch and of the models of these shapes, as described."""
        entries = [self.entry(name, shape) for name in self.precisions for shape in shapes]
        entries.append(self.description["golden"])
        return {self.folder / entry["path"]: str(entry["sha256"]) for entry in entries}


def read_exported(folder: Path, remedy: str, where: str = "") -> Exported:
    """What ``model.json`` describes; every file that it names lies in ``folder``, if it is there.

    Raises:
        InputError: the description is missing or damaged; the message begins with ``where`` and
            ends with ``remedy``.
    """
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        _Description.model_validate(description, strict=True)
        return Exported(folder, description)
    except FileNotFoundError:
        problem = "no such file"
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    except (ValueError, RecursionError):
        problem = "not readable as JSON"
    raise InputError(f"{where}model.json: {problem}; {remedy}")


def load_exported(folder: Path = ONNX_FOLDER) -> Exported:
    """Open what ``export_onnx`` wrote.

    Raises:
        InputError: the description is missing or damaged, or a file is missing or altered.
    """
    remedy = "run `dvc repro --force export_onnx` to make it again"
    exported = read_exported(folder, remedy, f"{folder}/")
    for path, digest in exported.sums(*SHAPES).items():
        if not path.is_file():
            raise InputError(f"{path}: no such file; {remedy}")
        if sha256(path) != digest:
            raise InputError(
                f"{path}: altered since its export (its sha256 is not the one in model.json);"
                f" {remedy}"
            )
    return exported
