"""Valid, damaged and malicious bundles."""

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import external_data_helper

from models.errors import InputError
from pipeline.bundles import open_bundle
from stages.bundle.keys import key_id
from stages.devices.proof import manifest_sum
from stages.files import sha256
from tests.bundles import KEY, changed, flip_byte, make_bundle, pack, seal
from tests.disk import small_disk

PUBLIC = KEY.public_key()
MODEL = "fp32.static.onnx"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made") / "bundle", key=KEY)


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def refusal(path: Path, *, signed: bool = False) -> str:
    with pytest.raises(InputError) as caught, open_bundle(path, PUBLIC if signed else None):
        pass
    assert str(caught.value).isprintable()
    return str(caught.value)


def forge(bundle: Path, **changes: object) -> None:
    """Change the manifest, and update its checksum."""
    with changed(bundle / "manifest.json") as manifest:
        manifest.update(changes)
        del manifest["sha256"]
        manifest["sha256"] = manifest_sum(manifest)


def test_folder_and_file_are_the_same_bundle(bundle):
    with open_bundle(bundle, PUBLIC) as folder, open_bundle(pack(bundle), PUBLIC) as file:
        assert folder.manifest_sha256 == file.manifest_sha256 == sha256(bundle / "manifest.json")
        assert (folder.name, folder.version, folder.signer) == ("student", "1.0.0", key_id(PUBLIC))
        files = [p for p in bundle.iterdir() if not p.name.startswith("manifest.")]
        assert folder.manifest["files"] == {
            p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files
        }
        assert folder.exported.description["network"] == "resnet8"
        assert file.exported.file("fp32", "static").parent == file.folder
        assert {p.name for p in file.folder.iterdir()} == {p.name for p in bundle.iterdir()}
        unpacked = file.folder
    assert not unpacked.exists()


def test_each_altered_byte_is_refused_and_its_file_named(bundle, tmp_path):
    names = sorted(path.name for path in bundle.iterdir())
    assert len(names) == 8 + 6  # models and their description
    for name in names:
        for place in (0, -2):
            copy = shutil.copytree(bundle, tmp_path / "copy")
            flip_byte(copy / name, place)
            for path in (copy, pack(copy)):
                assert name in refusal(path, signed=True)
            shutil.rmtree(copy)


def test_a_forged_checksum_is_refused_by_the_signature(bundle):
    signature = (bundle / "manifest.sig").read_bytes()
    flip_byte(bundle / "labels.json")
    seal(bundle, "1.0.0", KEY)
    (bundle / "manifest.sig").write_bytes(signature)
    assert refusal(bundle, signed=True).startswith("manifest.sig: not a signature of manifest.json")


def test_another_or_missing_signature_is_refused(bundle):
    other = Ed25519PrivateKey.generate().public_key()
    said = f"signed with the key {key_id(PUBLIC)}, expected {key_id(other)}"
    archive = pack(bundle)
    content = archive.read_bytes()
    # The signature is checked before reading any other file.
    for part in (content, content[:2000]):
        archive.write_bytes(part)
        with pytest.raises(InputError, match=said), open_bundle(archive, other):
            pass
    (bundle / "manifest.sig").unlink()
    assert refusal(bundle).startswith("manifest.sig: missing")
    seal(bundle)
    for path in (bundle, pack(bundle)):
        required = f"manifest.json: not signed, but the key {key_id(PUBLIC)} is required"
        assert refusal(path, signed=True).startswith(required)
        with open_bundle(path) as opened:
            assert opened.signer is None


def test_missing_and_additional_files_are_refused(bundle):
    (bundle / "more\x1b[2J.py").write_text("")
    assert refusal(bundle).startswith(r"'more\x1b[2J.py': not listed in manifest.json")
    (bundle / "more\x1b[2J.py").unlink()
    (bundle / MODEL).unlink()
    assert refusal(bundle).startswith(f"{MODEL}: missing")
    nowhere = bundle.parent / "nowhere.tar.gz"
    assert refusal(nowhere) == f"{nowhere}: no such file; `ackd run` packages a bundle"
    assert refusal(bundle.parent).startswith(f"manifest.json: missing in {bundle.parent}")


def member(name: str, size: int = 0, **others: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size = size
    for key, value in others.items():
        setattr(found, key, value)
    return found


NO_FILE = "is no plain file in a folder; give a bundle that `ackd run` packaged"
FIRST = "where a bundle has manifest.json"
NOT_LISTED = "is not in manifest.json or does not have the size stated there"


@pytest.mark.parametrize(
    ("replaces", "entry", "sentence"),
    [
        (None, member("../outside"), f"outside {NOT_LISTED}"),
        (None, member("/outside"), NO_FILE),
        (None, member("bundle/../../outside"), NO_FILE),
        (None, member("outside"), NO_FILE),
        (None, member("bundle", type=tarfile.DIRTYPE), NO_FILE),
        (None, member("bundle/l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), NO_FILE),
        (None, member("bundle/l", type=tarfile.LNKTYPE, linkname="bundle/labels.json"), NO_FILE),
        (None, member("bundle/d", type=tarfile.CHRTYPE, devmajor=1, devminor=5), NO_FILE),
        (None, member("bundle/f", type=tarfile.FIFOTYPE), NO_FILE),
        (None, member("bundle/labels.json"), f"labels.json {NOT_LISTED}"),
        (None, member("bundle/manifest.sig"), f"manifest.sig {NOT_LISTED}"),
        (None, member("bundle/more\x1b[2J"), rf"more\x1b[2J {NOT_LISTED}"),
        (None, member("bundle/.."), f".. {NOT_LISTED}"),
        # tarfile would write 4 TB for the first, and hold the names of the second in memory.
        ("labels.json", member("bundle/labels.json", 4 << 40, type=b"S"), NO_FILE),
        ("labels.json", member("bundle/x", 4 << 40, type=b"L"), NO_FILE),
        ("labels.json", member("bundle/x", 4 << 40, type=b"x"), NO_FILE),
        ("labels.json", member("bundle/labels.json", 4 << 40), NOT_LISTED),
        ("labels.json", member("bundle/labels.json", -512), NOT_LISTED),
        ("manifest.json", member("bundle/manifest.json", 4 << 40), FIRST),
        ("manifest.json", member("bundle/manifest.json", -512), "of -512 bytes"),
        ("manifest.json", member("bundle/m"), FIRST),
        ("manifest.sig", member("bundle/manifest.sig", 65), "has manifest.sig of 65 bytes"),
        ("labels.json", member("bundle/\udcff", 1), "damaged or no bundle"),
    ],
)
def test_malicious_archives_are_refused(made, tmp_path, replaces, entry, sentence):
    path = tmp_path / "evil.tar.gz"
    names = ["manifest.json", "manifest.sig"]
    names += sorted({p.name for p in made.iterdir()} - set(names))
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            if name == replaces:  # by a header alone
                packed.write(entry.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape"))
            else:
                content = (made / name).read_bytes()
                archive.addfile(member(f"bundle/{name}", len(content)), io.BytesIO(content))
        if replaces is None:
            archive.addfile(entry)
    assert sentence in refusal(path, signed=True)
    assert not (tmp_path.parent / "outside").exists()


def test_files_that_are_no_archives_are_refused(bundle):
    path = pack(bundle)
    whole = path.read_bytes()
    for content in (b"no archive", whole[:-2000], whole[:100], gzip.compress(b"x" * 1000), b""):
        path.write_bytes(content)
        said = refusal(path)
        assert said.startswith((f"{path}: damaged or no bundle (", f"{path}: has nothing of"))


def test_an_archive_of_zeros_is_refused_quickly(bundle):
    """Pack 2 GB into 2 MB, as stated in the manifest."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    zeros = {"sha256": "0" * 64, "bytes": 2 << 30}
    forge(bundle, key_id=None, files={**files, "zeros": zeros})
    (bundle / "manifest.sig").unlink()
    start = time.monotonic()
    assert "would unpack to more than 100 times its size" in refusal(pack(bundle))
    with (bundle / "zeros").open("wb") as handle:
        handle.truncate((2 << 30) + 1)
    assert refusal(bundle).startswith("zeros: altered since it was packaged")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"name": "a\x1b[2J"},
        {"version": "١.٠"},
        {"key_id": "a\x1b[2J"},
        {"files": {"../x": {"sha256": "0" * 64, "bytes": 1}}},
        {"files": {"manifest.json": {"sha256": "0" * 64, "bytes": 1}}},
        {"files": {"labels.json": {"sha256": "0" * 64}}},
        {"files": {"labels.json": {"sha256": "0" * 64, "bytes": -1}}},
        {"files": {"labels.json": {"sha256": "0" * 64, "bytes": True}}},
        {"files": {f"f{n}": {"sha256": "0" * 64, "bytes": 1} for n in range(1001)}},
    ],
)
def test_malformed_manifests_are_refused(bundle, change):
    forge(bundle, **change)
    for path in (bundle, pack(bundle)):
        assert refusal(path).startswith(("manifest.json: expected the fo", "manifest.json: damag"))


@pytest.mark.parametrize("name", ["manifest.json", "model.json"])
@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"[]"])
def test_invalid_and_deeply_nested_json_is_refused(bundle, name, content):
    (bundle / name).write_bytes(content)
    if name == "model.json":
        seal(bundle)
    for path in (bundle, pack(bundle)):
        assert refusal(path).startswith(f"{name}: ")


DAMAGED = "damaged, or names no exported model; package the bundle again"


def escape(model: dict[str, object], path: str) -> None:
    model["files"]["fp32"]["static"]["path"] = path  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda model: escape(model, "../../../../etc/passwd"), DAMAGED),
        (lambda model: escape(model, "/etc/passwd"), DAMAGED),
        (lambda model: escape(model, "unlisted.onnx"), "unlisted.onnx is not the file of manifest"),
        (lambda model: escape(model, "labels.json"), "labels.json is not the file of manifest"),
        (lambda model: model.update(files={}), DAMAGED),
        (lambda model: model["golden"].update(path="../x"), DAMAGED),
        (lambda model: model.update(network="\x1b[2J"), DAMAGED),
        (lambda model: model.update(num_classes="3"), DAMAGED),
        (lambda model: model["files"].update({"a\x1b": 1}), DAMAGED),
    ],
)
def test_descriptions_without_models_or_with_foreign_paths_are_refused(bundle, change, sentence):
    with changed(bundle / "model.json") as model:
        change(model)
    seal(bundle)
    for path in (bundle, pack(bundle)):
        assert refusal(path).startswith(f"model.json: {sentence}")


def test_invalid_models_and_external_weights_are_refused(bundle):
    def put(content: bytes) -> None:
        (bundle / MODEL).write_bytes(content)
        with changed(bundle / "model.json") as description:
            description["files"]["fp32"]["static"]["sha256"] = sha256(bundle / MODEL)
        seal(bundle)

    model = onnx.load(bundle / MODEL)
    (tensor, *_) = model.graph.initializer
    external_data_helper.set_external_data(tensor, "../../../../etc/passwd")
    tensor.ClearField("raw_data")
    put(model.SerializeToString())
    assert refusal(bundle).startswith(f"{MODEL}: keeps weights in another file")
    put(b"no model")
    assert refusal(pack(bundle)).startswith(f"{MODEL}: no ONNX model")


def test_a_folder_with_a_link_or_a_pipe(bundle, tmp_path):
    labels = bundle / "labels.json"
    labels.rename(tmp_path / "labels.json")
    labels.symlink_to(tmp_path / "labels.json")  # as DVC links to its cache
    with open_bundle(bundle, PUBLIC):
        pass
    for replace in (
        lambda: labels.symlink_to("/etc/passwd"),
        lambda: labels.symlink_to("/dev/zero"),
        lambda: os.mkfifo(labels),
    ):
        labels.unlink()
        replace()
        assert refusal(bundle).startswith("labels.json: altered since it was packaged")


def test_a_full_disk(bundle, tmp_path, monkeypatch):
    path = pack(bundle)
    with small_disk(tmp_path, "size=16k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        assert refusal(path) == f"{path}: No space left on device"
