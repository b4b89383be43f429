"""Read the data set that ``prepare_data`` writes: uint8 arrays per split, and a manifest."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from stages.files import read_json

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
DATA_FOLDER = Path("artifacts/data")

Rows: TypeAlias = slice | Sequence[int] | npt.NDArray[np.int64]


class ImageFile:
    """Images uint8 ``[N, H, W, 3]`` in a ``.npy`` file; indexing reads images into new memory.

    Unlike a memory map, it does not count towards the process's memory as pages are touched. It
    keeps no file open, so instances can be passed to other processes. It returns centre crops of
    ``size`` pixels, if given.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        try:
            with path.open("rb") as handle:
                np.lib.format.read_magic(handle)
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(handle)
                self._start = handle.tell()
            file_size = path.stat().st_size
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None
        if dtype != np.uint8 or fortran_order or len(shape) != 4:
            raise _damaged(path, f"{dtype} {list(shape)}, expected uint8 [N, H, W, 3]")
        if file_size != self._start + int(np.prod(shape)):
            raise _damaged(path, f"{file_size} bytes do not match the shape {list(shape)}")
        if size is not None and size > min(shape[1:3]):
            raise _damaged(path, f"{list(shape)}, expected images of at least {size} pixels")
        self._stored = shape[1:]
        self.shape: tuple[int, ...] = shape if size is None else (shape[0], size, size, shape[3])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> npt.NDArray[np.uint8]:
        """Read images ``[B, H, W, 3]``; raises InputError if the file was removed or truncated."""
        all_rows = range(len(self))
        wanted = all_rows[rows] if isinstance(rows, slice) else [all_rows[row] for row in rows]
        images = np.empty((len(wanted), *self._stored), np.uint8)
        if isinstance(wanted, range) and wanted.step == 1:
            self._read([(wanted.start, images)])
        else:
            self._read(zip(wanted, images, strict=True))
        if self._stored == self.shape[1:]:
            return images
        return np.ascontiguousarray(middle(images, self.shape[1]))

    def with_margin(self) -> Self:
        """Return the same file with whole images instead of centre crops."""
        whole = copy.copy(self)
        whole.shape = (len(self), *self._stored)
        return whole

    def first(self, count: int) -> Self:
        """Return the first ``count`` images of the file."""
        part = copy.copy(self)
        part.shape = (min(count, len(self)), *self.shape[1:])
        return part

    def _read(self, places: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> None:
        """Fill each array with images, starting at its index."""
        image_bytes = int(np.prod(self._stored))
        try:
            with self.path.open("rb", buffering=0) as handle:
                for index, images in places:
                    handle.seek(self._start + index * image_bytes)
                    rest = images.reshape(-1)
                    while rest.size:  # one read returns 2 GB at most
                        count = handle.readinto(rest.data)
                        if not count:
                            raise _damaged(self.path, "truncated after it was opened")
                        rest = rest[count:]
        except OSError as error:
            raise _damaged(self.path, error) from None


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(f"{path}: missing or damaged ({reason}); run `dvc repro prepare_data`")


def middle(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Crop the centre ``[..., size, size, 3]`` of ``[..., H, W, 3]``."""
    top, left = ((side - size) // 2 for side in images.shape[-3:-1])
    return images[..., top : top + size, left : left + size, :]


def write_header(handle: BinaryIO, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """Write the header of a ``.npy`` file; the array's bytes must follow."""
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)


@dataclass(frozen=True)
class Images:
    """One split: images uint8 ``[N, H, W, 3]`` and labels int64 ``[N]``."""

    images: ImageFile
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A manifest, and the splits on demand."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def image_size(self) -> int:
        return int(self.manifest["image_size"])

    @property
    def validates_on_test(self) -> bool:
        """Whether validation uses the test images, which must not decide anything."""
        splits = self.manifest["splits"]
        return bool(splits["val"]["images_sha256"] == splits["test"]["images_sha256"])

    @property
    def fit(self) -> str:
        """How images were made square; see ``data.fit``."""
        return str(self.manifest["fit"])

    @property
    def mean(self) -> Sequence[float]:
        """Mean of each channel over the training images, scaled to 0..1."""
        return tuple(self.manifest["mean"])

    @property
    def std(self) -> Sequence[float]:
        return tuple(self.manifest["std"])

    def count(self, name: Split) -> int:
        """Return the number of images in a split, by the manifest."""
        return int(self.manifest["splits"][name]["count"])

    def labels(self, name: Split) -> npt.NDArray[np.int64]:
        """Load the labels ``[N]``; raises InputError if the file is missing or damaged."""
        path = self.folder / f"{name}_labels.npy"
        try:
            labels: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, error) from None
        return labels

    def images(self, name: Split | Literal["unlabeled"]) -> ImageFile:
        """Open images ``[N, H, W, 3]`` of the data set's size, to be read on demand.

        Training and unlabeled images may have a margin for random crops; see
        :meth:`ImageFile.with_margin`. Raises as :class:`ImageFile`.
        """
        return ImageFile(self.folder / f"{name}_images.npy", self.image_size)

    def calibration_images(self, count: int) -> npt.NDArray[np.uint8]:
        """Read at most ``count`` training images, evenly spaced, to calibrate int8 ranges."""
        images = self.split("train").images
        return images[spread(len(images), count)]

    def split(self, name: Split) -> Images:
        """Open a split; raises InputError if its arrays are damaged or contradict the manifest."""
        images, labels, count = self.images(name), self.labels(name), self.count(name)
        if len(images) != count or len(labels) != count:
            raise InputError(
                f"{self.folder}: {name} has {len(images)} images and {len(labels)} labels, expected"
                f" {count} by the manifest; run `dvc repro --force prepare_data`"
            )
        return Images(images, labels)


def spread(size: int, count: int) -> npt.NDArray[np.int64]:
    """Return at most ``count`` evenly spaced indices below ``size``."""
    count = min(count, size)
    return np.arange(count) * size // count


def load_data(folder: Path = DATA_FOLDER) -> DataSet:
    """Open the data set; raises InputError if its manifest is missing or damaged."""
    return DataSet(folder, read_json(folder / "manifest.json"))
