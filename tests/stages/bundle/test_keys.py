import hashlib
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from models.errors import InputError
from stages.bundle.keys import configured_key, is_signed_by, key_id, new_key, read_public_key
from tests.bundles import flip_byte, make_bundle


def test_a_new_key_is_private_and_works(tmp_path, monkeypatch):
    private = tmp_path / "keys/signing.key"
    public, name = new_key(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert public == tmp_path / "keys/signing.key.pub"
    key = read_public_key(public)
    assert name == key_id(key) == hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
    monkeypatch.setenv("ACKD_SIGNING_KEY", str(private))
    own = configured_key()
    assert is_signed_by(key, b"content", own.sign(b"content"))
    assert not is_signed_by(key, b"Content", own.sign(b"content"))
    assert not is_signed_by(key, b"content", b"short")


@pytest.mark.parametrize("name", ["signing.key", "signing.key.pub"])
def test_existing_keys_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{name}: exists already; name another file"):
        new_key(tmp_path / "signing.key")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_invalid_keys_are_refused(tmp_path, monkeypatch):
    assert configured_key() is None
    monkeypatch.setenv("ACKD_SIGNING_KEY", "")
    assert configured_key() is None
    path = tmp_path / "key"
    monkeypatch.setenv("ACKD_SIGNING_KEY", str(path))
    with pytest.raises(InputError, match=r"key: no such file; ACKD_SIGNING_KEY names it"):
        configured_key()
    with pytest.raises(InputError, match=r"key: no such file; the public key names it"):
        read_public_key(path)
    public, _ = new_key(tmp_path / "own")
    own = serialization.load_pem_private_key((tmp_path / "own").read_bytes(), password=None)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    other = rsa.generate_private_key(65537, 2048)
    for content in (
        b"no key",
        other.private_bytes(pem, form, serialization.NoEncryption()),
        own.private_bytes(pem, form, serialization.BestAvailableEncryption(b"secret")),
        public.read_bytes(),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(InputError, match="an Ed25519 private key without a passphrase"):
            configured_key()
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"key: other users can read .* run `chmod 600 "):
        configured_key()
    for content in (b"text", (tmp_path / "own").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"an Ed25519 public key; give the \.pub file"):
            read_public_key(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_reads_the_keys_and_verifies_a_bundle(tmp_path):
    public, _ = new_key(tmp_path / "key")
    command = ["openssl", "pkey", "-in", str(tmp_path / "key"), "-pubout"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == public.read_text()
    key = serialization.load_pem_private_key((tmp_path / "key").read_bytes(), password=None)
    bundle = make_bundle(tmp_path / "bundle", key=key)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public)]
    command += ["-rawin", "-in", "manifest.json", "-sigfile", "manifest.sig"]
    for altered in (0, 1):
        if altered:
            flip_byte(bundle / "manifest.json")
        verified = subprocess.run(command, cwd=bundle, capture_output=True)
        assert verified.returncode == altered
