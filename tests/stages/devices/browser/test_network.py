import datetime
import ipaddress
import socket
import ssl
import urllib.request
from urllib.parse import urlsplit

import pytest

from models.errors import InputError
from stages.devices.browser import network
from stages.devices.browser.probe import Reach, probing
from stages.runtimes.exported import load_exported
from tests.stages.devices.browser.conftest import QUICK

pytestmark = pytest.mark.usefixtures("no_runtime")


def test_the_certificate_is_for_the_address_and_for_a_day(bundle):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    with probing(load_exported(bundle), QUICK, Reach(https=True)) as probe:
        split = urlsplit(probe.address)
        assert split.scheme == "https"
        pem = ssl.get_server_certificate((str(split.hostname), int(split.port or 0)))
        certificate = x509.load_pem_x509_certificate(pem.encode())
        # Trust only this certificate, so the name must match, too.
        context = ssl.create_default_context(cadata=pem)
        with urllib.request.urlopen(probe.address, timeout=20, context=context) as answer:
            assert answer.status == 200
    digest = certificate.fingerprint(hashes.SHA256()).hex().upper()
    assert probe.fingerprint == ":".join(digest[i : i + 2] for i in range(0, 64, 2))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    lifetime = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=23) < lifetime <= datetime.timedelta(days=1)


def test_no_network(monkeypatch):
    class Unreachable(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(network.socket, "socket", Unreachable)
    with pytest.raises(InputError, match=r"in no network .*omit --lan"):
        network.lan_address()


def test_only_this_machine_can_connect_and_a_port_is_used_once(bundle):
    with probing(load_exported(bundle), QUICK, Reach()) as probe:
        assert urlsplit(probe.address).hostname == "127.0.0.1"
        port = int(urlsplit(probe.address).port or 0)
        # All of 127/8 is this machine, but only one address was opened.
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=5)
        with (
            pytest.raises(InputError, match=rf"port {port} of 127\.0\.0\.1 cannot .*--port"),
            probing(load_exported(bundle), QUICK, Reach(port=port)),
        ):
            pass
    with probing(load_exported(bundle), QUICK, Reach(port=port)) as again:
        assert urlsplit(again.address).port == port
