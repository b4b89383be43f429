import base64
import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from models.errors import InputError
from stages.devices.browser import web_runtime


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(tmp_path / "web"))
    return tmp_path / "web" / web_runtime.VERSION


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A fake release, with its checksum in place of the real one."""
    path = tmp_path / "packed.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in [*web_runtime.FILES, "ort.js"]:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(web_runtime, "SHA512", digest)
    return path


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_npm_fetches_the_exact_release(place, packed, tmp_path, monkeypatch):
    script = f'echo "$@" > {tmp_path}/asked; cp {packed} onnxruntime-web-{web_runtime.VERSION}.tgz'
    fake_npm(tmp_path / "bin", script, monkeypatch)
    web_runtime.install()
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pack", f"onnxruntime-web@{web_runtime.VERSION}"]
    assert "--ignore-scripts" in asked
    assert web_runtime.require() == place
    assert {path.name for path in place.iterdir()} == {f"{name}.gz" for name in web_runtime.FILES}
    for name in web_runtime.FILES:
        assert gzip.decompress((place / f"{name}.gz").read_bytes()) == name.encode()


def test_another_release_is_refused_and_leaves_nothing(place, packed):
    packed.write_bytes(packed.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"packed\.tgz: not onnxruntime-web .* sha512 differs"):
        web_runtime.install(packed)
    assert not place.exists()


def test_a_place_that_cannot_be_written_is_named(packed, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACKD_ONNXRUNTIME_WEB", str(tmp_path / "file"))
    with pytest.raises(InputError, match="not be written .*; set ACKD_ONNXRUNTIME_WEB to"):
        web_runtime.install(packed)


def test_what_is_missing_is_named_in_one_sentence(place, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"is not in .*; run `ackd probe --install` once"):
        web_runtime.require()
    with pytest.raises(InputError, match=r"nowhere\.tgz: No such file or directory"):
        web_runtime.install(tmp_path / "nowhere.tgz")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is needed to fetch .*--install-from FILE"):
        web_runtime.install()
    fake_npm(tmp_path / "bin", "echo 'npm error code ENOTFOUND' >&2; exit 1", monkeypatch)
    with pytest.raises(InputError, match="npm error code ENOTFOUND; check that it reaches"):
        web_runtime.install()
    assert not place.exists()


def test_the_default_place_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("ACKD_ONNXRUNTIME_WEB", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert web_runtime.folder() == tmp_path / "ackd/onnxruntime-web" / web_runtime.VERSION
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert web_runtime.folder() == tmp_path / ".cache/ackd/onnxruntime-web" / web_runtime.VERSION
