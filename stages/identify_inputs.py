"""Stage ``identify_inputs``: hash the images, weights and network code from outside the project.

DVC only knows their names in ``params.yaml``. This stage always runs, so that the stages that read
them depend on their content and run again if it changes.
"""

import hashlib
from pathlib import Path
from typing import Any

from models.networks.own import code_sha256
from stages.data.sources.image_folder import walk
from stages.entry import run_stage
from stages.files import sha256, write_json
from stages.params import Params

IMAGES = Path("reports/inputs/images.json")
TEACHER = Path("reports/inputs/teacher.json")
STUDENT = Path("reports/inputs/student.json")
UNLABELED = Path("reports/inputs/unlabeled.json")


def main(params: Params) -> None:
    """Write a report on each input; the report on an input that is absent here stays."""
    between = params.proxy.assistants
    networks = {
        TEACHER: [params.teacher.network, *between.networks, *between.candidates],
        STUDENT: [params.distill.network],
    }
    places = {
        IMAGES: _folder(params.data.source),
        UNLABELED: _folder(params.data.unlabeled or ""),
        TEACHER: params.teacher.weights_file,
        STUDENT: params.distill.weights_file,
    }
    for report, place in places.items():
        if place is None or place.exists() or not report.exists():
            content: dict[str, Any] = {"sha256": None if place is None else _sum(place)}
            sums = {name: code_sha256(name) for name in networks.get(report, [])}
            if code := {name: own for name, own in sums.items() if own}:
                content["code"] = code
            write_json(report, content)


def _folder(source: str) -> Path | None:
    scheme, _, location = source.partition(":")
    return Path(location).expanduser() if scheme in ("imagefolder", "hf") else None


def _sum(place: Path) -> str | None:
    """Hash a file's bytes, or the names and sizes of a folder's files, which is faster."""
    if place.is_file():
        return sha256(place)
    if not place.is_dir():
        return None
    digest = hashlib.sha256()
    for inner, names in walk(place):
        for name in names:
            path = place / inner / name
            size = path.stat().st_size if path.exists() else None
            digest.update(f"{inner}/{name} {size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


if __name__ == "__main__":
    run_stage(main)
