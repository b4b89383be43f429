"""Write ``sbom.json``: a bundle's files and what they need on a device, in CycloneDX 1.6."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from stages.files import sha256, write_json

SBOM = "sbom.json"
RUNNER_LICENSE = "Apache-2.0"


#: What the device must have: the range of tested versions, the type in a package URL, and the kind.
REQUIREMENTS = {
    "python": ((">=3.8", "<3.14"), "generic", ComponentType.PLATFORM),
    "numpy": ((">=1.24.4", "<3"), "pypi", ComponentType.LIBRARY),
    "onnxruntime": ((">=1.19.2", "<2"), "pypi", ComponentType.LIBRARY),
}


def write_sbom(
    folder: Path,
    network: str,
    version: str,
    license_: str | None,
    weights: Mapping[str, Any] | None = None,
) -> None:
    """Describe all files in ``folder``; equal contents give equal bytes."""
    digests = {path: sha256(path) for path in sorted(folder.iterdir())}
    licenses = _licenses(license_)
    whole = Component(
        name=network,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="bundle",
        licenses=licenses,
        pedigree=None if weights is None else Pedigree(ancestors=[_ancestor(weights)]),
    )
    files = [_file(path, digest, licenses) for path, digest in digests.items()]
    needed = {name: _requirement(name) for name in REQUIREMENTS}
    identity = [network, version, str(license_)]
    identity += [f"{digest}  {path.name}" for path, digest in digests.items()]
    bom = Bom(
        # The default is random, so it would differ each time.
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


def _ancestor(weights: Mapping[str, Any]) -> Component:
    """Describe the weights that the network is derived from."""
    return Component(
        name=weights["source"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=weights["sha256"])],
        licenses=_licenses(weights["licence"]),
    )


def _requirement(name: str) -> Component:
    """Describe a requirement, without version, as CycloneDX 1.6 has no version ranges."""
    versions, registry, kind = REQUIREMENTS[name]
    ranges = f"vers:{registry}/{'|'.join(versions)}"
    return Component(
        name=name,
        type=kind,
        bom_ref=name,
        purl=PackageURL(registry, name=name, qualifiers={"vers": ranges}),
        properties=[Property(name="ackd:versions", value=",".join(versions))],
    )


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
