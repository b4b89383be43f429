"""Stage ``package``: write the bundle for devices, as a folder and as one file."""

import gzip
import shutil
import tarfile
from pathlib import Path

from models.errors import InputError
from stages.analysis.classes import CLASSES_FILE, read_classes
from stages.bundle.card import model_card
from stages.bundle.keys import configured_key, key_id
from stages.bundle.manifest import write_manifest
from stages.bundle.sbom import write_sbom
from stages.devices.programs import RUNNER, single_file
from stages.devices.proof import MANIFEST, SIGNATURE
from stages.entry import run_stage
from stages.files import new_file, new_folder, read_json, write_json
from stages.params import Params
from stages.runtimes.exported import SHAPES, load_exported

SUMMARY = Path("reports/summary.json")
GATE = Path("reports/gate.json")
DATA = Path("reports/data.json")
ENVIRONMENT = Path("reports/distill/environment.json")
BUNDLE = Path("artifacts/bundle")
BUNDLE_FILE = Path("artifacts/bundle.tar.gz")
_HEAD = (MANIFEST, SIGNATURE)


def main(params: Params) -> None:
    """Write ``artifacts/bundle`` and its archive, signed if ``ACKD_SIGNING_KEY`` names a key.

    Raises InputError if a goal of the gate is missed, an exported file was altered, or the key is
    not usable.
    """
    bundle, key = params.package, configured_key()
    gate = read_json(GATE)
    if not gate["passed"]:
        missed = ", ".join(dict.fromkeys(g["goal"] for g in gate["goals"] if not g["met"]))
        raise InputError(
            f"{GATE}: goals are missed ({missed}); improve the student, or change gate in"
            " params.yaml, and run `dvc repro`"
        )
    summary = read_json(SUMMARY)
    exported = load_exported()
    passed = {n for n, export in summary["exports"].items() if export["status"] == "passed"}
    description = exported.description | {"failed": {}}
    for part in ("files", "int8"):
        description[part] = {n: entry for n, entry in description[part].items() if n in passed}
    models = [entry[shape]["path"] for entry in description["files"].values() for shape in SHAPES]
    classes, report = read_classes(), read_json(DATA)
    environment = read_json(ENVIRONMENT)
    card = model_card(summary, description, gate["goals"], classes, params, report, environment)

    with new_folder(BUNDLE) as folder, new_file(BUNDLE_FILE) as archive:
        for name in (*models, description["golden"]["path"], "labels.json"):
            shutil.copyfile(exported.folder / name, folder / name)
        (folder / "runner.py").write_bytes(single_file(RUNNER))
        write_json(folder / "model.json", description)
        weights = summary["student"]["weights"]
        write_sbom(folder, description["network"], bundle.version, bundle.license, weights)
        shutil.copyfile(CLASSES_FILE, folder / CLASSES_FILE.name)
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        write_manifest(folder, bundle.name, bundle.version, key)
        write_archive(archive, folder, BUNDLE.name)
    signed = "not signed" if key is None else f"signed with the key {key_id(key.public_key())}"
    print(
        f"package: {BUNDLE_FILE} {bundle.version} with {', '.join(description['files'])}, {signed}"
    )


def write_archive(path: Path, folder: Path, name: str) -> None:
    """Pack the files of ``folder`` under ``name/``; equal contents give equal bytes.

    The manifest and its signature come first, so that a reader can verify the other files.
    """
    files = sorted(folder.iterdir(), key=lambda file: (file.name not in _HEAD, file.name))
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for file in files:
            # A new TarInfo has owner, group and time 0, which makes the archive reproducible.
            entry = tarfile.TarInfo(f"{name}/{file.name}")
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)


if __name__ == "__main__":
    run_stage(main)
