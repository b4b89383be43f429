"""Addresses, ports and the certificate for the page."""

import datetime
import ipaddress
import os
import socket
import ssl
import tempfile
from pathlib import Path

from models.errors import InputError

LOOPBACK = "127.0.0.1"


def lan_address() -> str:
    """Return this machine's address in its network; raises InputError if it is in none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends no packet, only asks which address the system would send from. 192.0.2.1 is
            # reserved for documentation.
            probe.connect(("192.0.2.1", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = LOOPBACK
    if ipaddress.ip_address(address).is_loopback:
        raise InputError(
            "this machine is in no network that a phone could share; connect it to the phone's"
            " Wi-Fi, or omit --lan and use a cable (`adb reverse`)"
        )
    return address


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port, 0 for a free one; raises InputError if it is in use or not allowed."""
    try:
        return socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise InputError(
            f"port {port} of {host} cannot be used ({os.strerror(error.errno or 0)}); choose"
            " another with --port, or omit it"
        ) from None


def self_signed(host: str) -> tuple[ssl.SSLContext, str]:
    """Make a certificate for ``host``, valid for a day, and its SHA-256 as browsers show it.

    The key does not stay on disk. Source: RFC 5280. Browsers read the subject alternative name.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ackd probe")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a phone's clock may be slow
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    content = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # ssl loads certificates only from files.
    with tempfile.TemporaryDirectory(prefix="ackd-") as folder:
        path = Path(folder) / "certificate.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        context.load_cert_chain(path)
    return context, certificate.fingerprint(hashes.SHA256()).hex(":").upper()
