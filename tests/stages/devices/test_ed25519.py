import hashlib
import random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.keys import is_signed_by as judged
from stages.devices.ed25519 import _ORDER, _P, is_signed_by


def test_results_equal_the_librarys():
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


def test_invalid_signatures_and_keys():
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key").digest())
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"content")
    # Equal modulo the order: anybody can derive such a signature from another.
    factor = int.from_bytes(signature[32:], "little") + _ORDER
    malleable = signature[:32] + factor.to_bytes(32, "little")
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), malleable):
        assert not is_signed_by(public, b"content", wrong)
    for number in (2, _P, _P + 1, 1 | 1 << 255):  # no point, and non-canonical encodings
        assert not is_signed_by(number.to_bytes(32, "little"), b"content", signature)
