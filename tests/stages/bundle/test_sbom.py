import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from stages.bundle.sbom import REQUIREMENTS, write_sbom
from stages.files import sha256
from tests.stages.devices.elsewhere import NUMPY, OLDEST

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "bundle"
    made.mkdir()
    for name in ("fp32.static.onnx", "int8_u8s8.static.onnx", "golden.npz", "runner.py"):
        (made / name).write_text(name)
    return made


def written(
    folder: Path, license_: str | None = None, weights: dict[str, str] | None = None
) -> dict[str, Any]:
    """Write a valid SBOM, and return its content."""
    (folder / "sbom.json").unlink(missing_ok=True)
    write_sbom(folder, "resnet8", "1.2.0", license_, weights)
    content = (folder / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content) is None
    return json.loads(content)


@pytest.mark.parametrize("license_", [None, "Apache-2.0", "LicenseRef-A", "MIT OR Apache-2.0"])
def test_it_is_valid_cyclonedx(folder, license_):
    assert written(folder, license_)["specVersion"] == "1.6"


def test_every_file_has_its_checksum_and_dependencies(folder):
    sbom = written(folder)
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("resnet8", "1.2.0")
    parts = {part["name"]: part for part in sbom["components"]}
    names = {path.name for path in folder.iterdir()} - {"sbom.json"}
    assert set(parts) == names | {"python", "numpy", "onnxruntime"}
    for name in names:
        (digest,) = parts[name]["hashes"]
        assert digest == {"alg": "SHA-256", "content": sha256(folder / name)}
    needs = {one["ref"]: set(one.get("dependsOn", [])) for one in sbom["dependencies"]}
    assert needs[root["bom-ref"]] == names
    assert needs["runner.py"] == {"python", "numpy", "onnxruntime"}
    assert needs["fp32.static.onnx"] == {"onnxruntime"}
    assert needs["golden.npz"] == set()


def test_weights_that_the_network_is_derived_from_have_their_licence(folder):
    weights = {"source": "timm:some.in1k", "sha256": 64 * "0", "licence": "cc-by-nc-4.0"}
    root = written(folder, None, weights)["metadata"]["component"]
    (ancestor,) = root["pedigree"]["ancestors"]
    assert ancestor["name"] == "timm:some.in1k"
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": 64 * "0"}]
    assert ancestor["licenses"] == [{"license": {"id": "CC-BY-NC-4.0"}}]


def test_equal_files_give_equal_bytes_and_others_another_serial_number(folder):
    first = written(folder)
    assert written(folder) == first
    (folder / "golden.npz").write_text("others")
    assert written(folder)["serialNumber"] != first["serialNumber"]


def test_the_versions_are_the_tested_ones(folder):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python, numpy = next(iter(NUMPY.items()))
    lowest = {"python": python, "numpy": numpy, "onnxruntime": OLDEST}
    ours = {line.rstrip("<>=.,0123456789"): line for line in project["dependencies"]}
    ours["python"] = project["requires-python"]
    for name, (versions, *_) in REQUIREMENTS.items():
        assert versions == (f">={lowest[name]}", ours[name].split(",")[1])
    parts = {part["name"]: part for part in written(folder)["components"]}
    assert PackageURL.from_string(parts["onnxruntime"]["purl"]) == PackageURL(
        "pypi", name="onnxruntime", qualifiers={"vers": "vers:pypi/>=1.19.2|<2"}
    )
