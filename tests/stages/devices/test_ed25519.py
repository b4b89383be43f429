from __future__ import annotations

import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.keys import is_signed_by as judged
from stages.devices.ed25519 import _ORDER, _P, is_signed_by


@pytest.mark.parametrize(
    ("secret", "content"),
    [
        ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", ""),
        ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72"),
        ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "af82"),
    ],
)
def test_the_vectors_of_rfc_8032(secret: str, content: str) -> None:
    """Section 7.1, tests 1 to 3; the signatures are drawn from nothing, and compared below."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    signature = key.sign(bytes.fromhex(content))
    expected = {
        "": "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        "72": "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        "af82": "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    }[content]
    assert signature.hex() == expected
    public = key.public_key().public_bytes_raw()
    assert is_signed_by(public, bytes.fromhex(content), bytes.fromhex(expected))


def test_it_judges_as_the_library_does() -> None:
    drawn = random.Random(0)
    for _ in range(20):
        key = Ed25519PrivateKey.from_private_bytes(drawn.randbytes(32))
        public, content = key.public_key().public_bytes_raw(), drawn.randbytes(100)
        signature = key.sign(content)
        assert is_signed_by(public, content, signature)
        wrong = bytearray(signature)
        wrong[drawn.randrange(64)] ^= 1 << drawn.randrange(8)
        assert not judged(key.public_key(), content, bytes(wrong))
        assert not is_signed_by(public, content, bytes(wrong))
        assert not is_signed_by(public, content + b"x", signature)
        other = bytearray(public)
        other[drawn.randrange(32)] ^= 1 << drawn.randrange(8)
        assert not is_signed_by(bytes(other), content, signature)


def test_what_is_no_signature_and_what_no_key() -> None:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key").digest())
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"content")
    # The same modulo the order: a signature that anybody can make of another.
    factor = int.from_bytes(signature[32:], "little") + _ORDER
    malleable = signature[:32] + factor.to_bytes(32, "little")
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), malleable):
        assert not is_signed_by(public, b"content", wrong)
    for number in (2, _P, _P + 1, 1 | 1 << 255):  # no point, and points that are spelt otherwise
        assert not is_signed_by(number.to_bytes(32, "little"), b"content", signature)
