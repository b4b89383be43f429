from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.errors import InputError
from stages.bundle.keys import key_id, public_text
from stages.bundle.manifest import open_bundle, write_manifest
from stages.files import sha256
from tests.bundles import flip_byte, make_bundle, pack

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", key=KEY)


def refused(path: Path, sentence: str, *, signed: bool = True) -> None:
    with pytest.raises(InputError, match=sentence), open_bundle(path, PUBLIC if signed else None):
        pass


def test_folder_and_file_are_the_same_bundle(bundle: Path) -> None:
    with open_bundle(bundle, PUBLIC) as folder, open_bundle(pack(bundle), PUBLIC) as file:
        assert folder.manifest_sha256 == file.manifest_sha256 == sha256(bundle / "manifest.json")
        assert folder.version == "1.0.0"
        assert folder.manifest["key_id"] == key_id(PUBLIC)
        listed = set(folder.manifest["files"])
        assert listed == {p.name for p in bundle.iterdir()} - {"manifest.json", "manifest.sig"}
        assert folder.model["network"] == "resnet8"
        unpacked = file.folder
        assert unpacked.is_dir()
    assert not unpacked.exists()


def test_each_altered_byte_is_refused_and_its_file_named(bundle: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in bundle.iterdir())
    assert len(names) == 8 + 7  # the models, and what describes them
    for name in names:
        for place in (0, -1):
            copy = tmp_path / "copy"
            shutil.copytree(bundle, copy)
            flip_byte(copy / name, place)
            with pytest.raises(InputError) as caught, open_bundle(pack(copy), PUBLIC):
                pass
            assert name in str(caught.value)
            shutil.rmtree(copy)


def test_without_a_key_sums_are_proven_all_the_same(bundle: Path) -> None:
    flip_byte(bundle / "labels.json")
    refused(bundle, r"^labels\.json: altered since it was packaged", signed=False)


def test_a_manifest_made_to_fit_is_refused_by_its_signature(bundle: Path) -> None:
    flip_byte(bundle / "golden.npz")
    signature = (bundle / "manifest.sig").read_bytes()
    for name in ("manifest.sig", "manifest.json"):
        (bundle / name).unlink()
    write_manifest(bundle, "1.0.0", KEY)
    (bundle / "manifest.sig").write_bytes(signature)
    refused(bundle, r"^manifest\.sig: not the signature of manifest\.json")


def test_another_key_and_none(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", key=Ed25519PrivateKey.generate())
    refused(other, rf"says that it is signed with the key .*, expected {key_id(PUBLIC)}")
    unsigned = make_bundle(tmp_path / "unsigned")
    refused(unsigned, rf"^manifest\.json: not signed, and the key {key_id(PUBLIC)} is required")
    with open_bundle(unsigned) as opened:
        assert opened.manifest["key_id"] is None


def test_what_is_missing_or_too_many(bundle: Path) -> None:
    (bundle / "more.py").write_text("")
    refused(bundle, r"^more\.py: not in manifest\.json")
    (bundle / "more.py").unlink()
    (bundle / "fp16.static.onnx").unlink()
    refused(bundle, r"^fp16\.static\.onnx: missing in the bundle")
    refused(bundle.parent / "nowhere.tar.gz", r"nowhere\.tar\.gz: no such file")
    refused(bundle.parent, r"^manifest\.json: missing in ", signed=False)


@pytest.mark.parametrize("name", ["../outside", "/outside", "bundle/../../outside"])
def test_an_archive_that_writes_elsewhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    refused(path, "is no plain file of a bundle", signed=False)
    assert not (tmp_path.parent / "outside").exists()


def test_a_link_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("bundle/model.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    refused(path, r"bundle/model\.json is no plain file", signed=False)


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(b"no archive")
    refused(path, r"bundle\.tar\.gz: damaged or no bundle", signed=False)
    cut = pack(make_bundle(tmp_path / "whole"))
    cut.write_bytes(cut.read_bytes()[:-2000])
    refused(cut, r"whole\.tar\.gz: damaged or no bundle", signed=False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "other"}, "not of a bundle of the form ackd-bundle-1"),
        ({"version": "1.0-beta"}, r"'1\.0-beta' is no version such as 1\.2\.0"),
        ({"files": {"../x": {}}}, r"'\.\./x' is no plain name"),
        ({"files": {"labels.json": 3}}, r"^labels\.json: altered"),
    ],
)
def test_a_manifest_of_another_form(bundle: Path, change: dict[str, object], sentence: str) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(bundle, sentence, signed=False)


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    for key in (None, KEY):
        made = [make_bundle(tmp_path / f"{key is None}-{n}", key=key) for n in (1, 2)]
        first, second = (pack(folder).read_bytes() for folder in made)
        assert first == second


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_verifies_it_too(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(public_text(PUBLIC))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(tmp_path / "key.pub")]
    command += ["-rawin", "-in", "manifest.json", "-sigfile", "manifest.sig"]
    assert subprocess.run(command, cwd=bundle, check=False, capture_output=True).returncode == 0
    flip_byte(bundle / "manifest.json")
    assert subprocess.run(command, cwd=bundle, check=False, capture_output=True).returncode == 1
