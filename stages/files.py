"""Atomic files and folders, and their checksums."""

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.errors import InputError

#: The folders of an absolute path or one in a home folder, but not of a URL.
_FOLDERS = re.compile(r"^([^/~]*:)?(~[^/]*)?/(?!/)(.*/)?(?=[^/])")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which is renamed to ``path`` at the end, or removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As :func:`new_file`, for a folder; an older ``path`` is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON with keys in the given order; equal contents give equal bytes."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a stage; raises InputError if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `dvc repro` to make it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not readable as JSON ({error}); remove it and run `dvc repro`"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object; remove it and run `dvc repro`")
    return content


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with the same keys; floats get six significant digits."""
    rows = list(rows)
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file; raises InputError if it is missing or damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle, strict=True))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file; run `dvc repro` to make it") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as CSV ({error}); restore the file") from None


def without_folders(text: str) -> str:
    """Shorten a path, or a source with a path, for reports: ``hf:.../flowers``."""
    return _FOLDERS.sub(r"\1.../", text)


def json_sha256(content: Mapping[str, Any]) -> str:
    """Return the hex digest of a JSON-serializable mapping, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
