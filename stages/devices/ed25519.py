"""Verify Ed25519 signatures on devices that lack a library for it.

Needs only Python 3.8 or newer; inlined into ``agent.py``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
if TYPE_CHECKING:
    #: Extended coordinates x, y, z, t of a point: x/z and y/z are affine, and t = xy/z.
    _Point = tuple[int, int, int, int]


def is_signed_by(key: bytes, content: bytes, signature: bytes) -> bool:
    """Return whether ``signature`` (64 bytes) over ``content`` is by ``key`` (32 bytes).

    Takes a few milliseconds. No value is secret, so the time may depend on them.

    Source: RFC 8032, sections 5.1.3, 5.1.4 and 5.1.7, without the cofactor, like OpenSSL.
    """
    if len(signature) != 64:
        return False
    nonce, factor = signature[:32], int.from_bytes(signature[32:], "little")
    public, base = _point(key), _point((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))
    if public is None or base is None or factor >= _ORDER:
        return False
    challenge = int.from_bytes(hashlib.sha512(nonce + key + content).digest(), "little")
    x, y, z, t = public
    found = _add(_times(factor, base), _times(challenge % _ORDER, (_P - x, y, z, _P - t)))
    inverse = pow(found[2], _P - 2, _P)
    x, y = found[0] * inverse % _P, found[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little") == nonce


def _point(encoded: bytes) -> _Point | None:
    """Decode a point from 32 bytes; None if they encode none."""
    number = int.from_bytes(encoded, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if y >= _P or (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


def _add(one: _Point, other: _Point) -> _Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(factor: int, point: _Point) -> _Point:
    total = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            total = _add(total, point)
        point = _add(point, point)
        factor >>= 1
    return total
