"""``sbom.json``: the parts of a bundle and what a device needs to run them, in CycloneDX 1.6."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_OID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from stages.files import sha256, write_json

SBOM = "sbom.json"
RUNNER_LICENSE = "Apache-2.0"


class Requirement(NamedTuple):
    """A program that the device must bring.

    Attributes:
        versions: from the oldest that bundles are tested with to below the first untested one.
        registry: its type in a package URL.
    """

    name: str
    versions: tuple[str, ...]
    registry: str
    kind: ComponentType

    def component(self) -> Component:
        """Without a version, as none is delivered; CycloneDX has ranges from 1.7 on only."""
        ranges = f"vers:{self.registry}/{'|'.join(self.versions)}"
        return Component(
            name=self.name,
            type=self.kind,
            bom_ref=self.name,
            purl=PackageURL(self.registry, name=self.name, qualifiers={"vers": ranges}),
            properties=[Property(name="ackd:versions", value=",".join(self.versions))],
        )


REQUIREMENTS = (
    Requirement("python", (">=3.8", "<3.14"), "generic", ComponentType.PLATFORM),
    Requirement("numpy", (">=1.24.4", "<3"), "pypi", ComponentType.LIBRARY),
    Requirement("onnxruntime", (">=1.19.2", "<2"), "pypi", ComponentType.LIBRARY),
)


def write_sbom(folder: Path, network: str, version: str, license_: str | None) -> None:
    """Describe all files in ``folder``; equal contents give equal bytes.

    Args:
        folder: the bundle's models, ``runner.py`` and what both read.
        network: its name.
        version: of the bundle.
        license_: of the model, an SPDX expression; None where it is not stated.
    """
    paths = sorted(folder.iterdir())
    digests = {path.name: sha256(path) for path in paths}
    licenses = _licenses(license_)
    whole = Component(
        name=network,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="bundle",
        licenses=licenses,
    )
    files = [_file(path, digests[path.name], licenses) for path in paths]
    needed = {requirement.name: requirement.component() for requirement in REQUIREMENTS}
    identity = [network, version, str(license_), *(f"{d}  {name}" for name, d in digests.items())]
    bom = Bom(
        # A random one would differ each time.
        serial_number=uuid5(NAMESPACE_OID, "\n".join(identity)),
        metadata=BomMetaData(component=whole),
        components=[*files, *needed.values()],
    )
    bom.register_dependency(whole, files)
    for file in files:
        if file.type is ComponentType.MACHINE_LEARNING_MODEL:
            bom.register_dependency(file, [needed["onnxruntime"]])
        elif file.type is ComponentType.APPLICATION:
            bom.register_dependency(file, needed.values())
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["metadata"]["timestamp"]
    write_json(folder / SBOM, content)


def _file(path: Path, digest: str, licenses: list[License]) -> Component:
    kind = {".onnx": ComponentType.MACHINE_LEARNING_MODEL, ".py": ComponentType.APPLICATION}.get(
        path.suffix, ComponentType.DATA
    )
    if kind is ComponentType.APPLICATION:
        licenses = _licenses(RUNNER_LICENSE)
    return Component(
        name=path.name,
        type=kind,
        bom_ref=path.name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        licenses=licenses if kind is not ComponentType.DATA else None,
    )


def _licenses(expression: str | None) -> list[License]:
    return [] if expression is None else [LicenseFactory().make_from_string(expression)]
