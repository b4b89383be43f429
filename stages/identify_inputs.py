"""Stage ``identify_inputs``: hash the files from outside the project and code of own networks.

DVC only knows their names in ``params.yaml``. This stage always runs, so that the stages that read
them depend on their content and run again if it changes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.networks.own import code_sha256
from stages.data.sources.image_folder import walk
from stages.entry import run_stage
from stages.files import sha256, write_json
from stages.params import Params

FOLDER = Path("reports/inputs")
IMAGES = FOLDER / "images.json"
UNLABELED = FOLDER / "unlabeled.json"
TEACHER = FOLDER / "teacher.json"
ASSISTANTS = FOLDER / "assistants.json"
STUDENT = FOLDER / "student.json"
BASELINE = FOLDER / "baseline.json"

#: Formats whose files often all have the same size.
_UNCOMPRESSED = {".bmp", ".pgm", ".ppm", ".tif", ".tiff"}


def main(params: Params) -> None:
    """Write a report on each input; the report on an input that is absent here stays."""
    for report, content in identify(params).items():
        if content or not report.exists():
            write_json(report, content or {"sha256": None})


def checksum(place: Path, images: bool) -> str | None:
    """Hash a file's bytes, or a folder's files; compressed images by names and sizes, for speed."""
    if place.is_file():
        return sha256(place)
    if not place.is_dir():
        return None
    digest = hashlib.sha256()
    for inner, names in walk(place):
        for name in names:
            path, known = place / inner / name, None
            if path.exists():
                compressed = images and path.suffix.lower() not in _UNCOMPRESSED
                known = path.stat().st_size if compressed else sha256(path)
            digest.update(f"{inner}/{name} {known}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def identify(
    params: Params, checksum: Callable[[Path, bool], str | None] = checksum
) -> dict[Path, dict[str, Any] | None]:
    """Return what the reports should say; None for an input that is absent here."""
    baseline = params.analyze.baseline
    networks = {
        TEACHER: [params.teacher.network],
        ASSISTANTS: params.proxy.all_assistants,
        STUDENT: [params.distill.network],
    }
    places = {
        IMAGES: _folder(params.data.source),
        UNLABELED: _folder(params.data.unlabeled or ""),
        TEACHER: params.teacher.weights_file,
        ASSISTANTS: None,
        STUDENT: params.distill.weights_file,
        BASELINE: None if baseline is None else Path(baseline),
    }
    found: dict[Path, dict[str, Any] | None] = dict.fromkeys(places)
    for report, place in places.items():
        if place is None or place.exists():
            images = report in (IMAGES, UNLABELED)
            known = None if place is None else checksum(place, images)
            content: dict[str, Any] = {"sha256": known}
            sums = {name: code_sha256(name) for name in networks.get(report, [])}
            if code := {name: own for name, own in sums.items() if own}:
                content["code"] = code
            found[report] = content
    return found


def _folder(source: str) -> Path | None:
    scheme, _, location = source.partition(":")
    return Path(location).expanduser() if scheme in ("imagefolder", "hf") else None


if __name__ == "__main__":
    run_stage(main)
