import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from models.errors import InputError
from stages.devices.base import Opening
from stages.devices.urls import open_device
from stages.devices.wheels import install_for, platforms
from tests.sshd import needs_sshd
from tests.stages.devices.conftest import PROFILE, only
from tests.stages.test_profile_latency import FIELDS

BOARD: dict[str, Any] = {
    "python": [3, 8],
    "implementation": "CPython",
    "system": "Linux",
    "machine": "aarch64",
    "libc": "glibc",
    "libc_version": "2.31",
}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Where pip finds wheels, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(index: Path, name: str, tag: str, content: str, version: str = "1.0") -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    with zipfile.ZipFile(index / f"{name}-{version}-{tag}.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in files))


def test_tags_are_those_of_the_glibc_and_older():
    tags = platforms(BOARD, "ssh://board")
    assert tags[0] == "manylinux_2_31_aarch64"
    assert tags[-1] == "manylinux2014_aarch64"
    assert not any("_32_" in tag for tag in tags)
    for change in ({"system": "Darwin"}, {"libc": ""}, {"implementation": "PyPy"}):
        with pytest.raises(InputError, match="--send-wheels needs CPython on Linux with glibc, an"):
            platforms({**BOARD, **change}, "ssh://board")


def test_what_fits_the_device_is_chosen_not_what_fits_this_machine(index, tmp_path):
    with pytest.raises(InputError) as caught:
        install_for(BOARD, tmp_path / "site", "ssh://board")
    assert str(caught.value).startswith(
        "ssh://board: no wheels of numpy and onnxruntime for Python 3.8 on aarch64 ("
    )
    assert "\n" not in str(caught.value)
    for tag, name in (
        ("cp38-cp38-manylinux_2_27_aarch64", "fits"),
        ("cp38-cp38-manylinux_2_35_aarch64", "of a newer glibc"),
        ("cp311-cp311-manylinux_2_27_aarch64", "of another Python"),
        ("cp38-cp38-manylinux_2_27_x86_64", "of another machine"),
    ):
        version = "2.0" if name == "of a newer glibc" else "1.0"
        for package in ("numpy", "onnxruntime"):
            write_wheel(index, package, tag, f"# {name}", version)
    site = tmp_path / "site"
    install_for(BOARD, site, "ssh://board")
    for package in ("numpy", "onnxruntime"):
        assert (site / package / "__init__.py").read_text() == "# fits"


@needs_sshd
def test_what_was_sent_is_what_runs_there_and_then_it_is_gone(sshd, index, tmp_path, exported):
    """Stand-ins that hand on to the packages that are installed, and say that they were used."""
    sshd.trust()
    for package in ("numpy", "onnxruntime"):
        write_wheel(
            index,
            package,
            "py3-none-any",
            "import sys, pathlib\n"
            f"pathlib.Path({str(tmp_path)!r}, 'used-{package}').write_text(__file__)\n"
            "here = str(pathlib.Path(__file__).parent.parent)\n"
            "sys.path.remove(here)\n"
            f"del sys.modules[{package!r}]\n"
            f"import {package}\n"
            "sys.path.insert(0, here)\n",
        )
    work = tmp_path / "work place"
    url = sshd.url(work, "&threads=2").replace(" ", "%20")
    measured = open_device(url, Opening(send_wheels=True)).measure(only(exported, "fp32"), PROFILE)
    (row,) = measured.results
    assert set(row) == FIELDS
    assert (row["device"], row["status"], row["threads"]) == (url, "passed", 2)
    assert row["model_sha256"] == exported.entry("fp32", "static")["sha256"]
    assert len(measured.samples[f"{url}|onnxruntime|fp32|2"]) == row["n"] == 5
    assert measured.description["machine"] == os.uname().machine
    for package in ("numpy", "onnxruntime"):
        used = Path((tmp_path / f"used-{package}").read_text())
        assert used.match(f"{work}/.new-*/site/{package}/__init__.py")
    assert list(work.iterdir()) == []
