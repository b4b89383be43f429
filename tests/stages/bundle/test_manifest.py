from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.keys import key_id, public_text
from stages.files import sha256
from tests.bundles import flip_byte, make_bundle

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()


def test_it_lists_every_file_and_whose_signature_it_bears(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "1.2", KEY)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["name"], manifest["version"]) == ("student", "1.2")
    assert manifest["key_id"] == key_id(PUBLIC)
    others = {path.name: path for path in bundle.iterdir()}
    del others["manifest.json"], others["manifest.sig"]
    assert manifest["files"] == {
        name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for name, path in sorted(others.items())
    }


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_verifies_it_too(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", key=KEY)
    (tmp_path / "key.pub").write_text(public_text(PUBLIC))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(tmp_path / "key.pub")]
    command += ["-rawin", "-in", "manifest.json", "-sigfile", "manifest.sig"]
    assert subprocess.run(command, cwd=bundle, check=False, capture_output=True).returncode == 0
    flip_byte(bundle / "manifest.json")
    assert subprocess.run(command, cwd=bundle, check=False, capture_output=True).returncode == 1
