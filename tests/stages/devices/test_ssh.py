"""Measure over the system's ssh, on a real sshd on loopback."""

import shutil
import socket
import time

import pytest

from models.errors import InputError
from stages.devices import commands, ssh
from stages.devices.base import Opening
from stages.devices.host_keys import fingerprint
from stages.devices.urls import open_device
from stages.runtimes.exported import Exported
from tests.bundles import flip_byte
from tests.sshd import make_key, needs_sshd, running
from tests.stages.devices.conftest import PROFILE, only
from tests.stages.test_profile_latency import FIELDS

pytestmark = needs_sshd


@pytest.fixture
def known(sshd):
    """A server whose key is known."""
    sshd.trust()
    return sshd


def test_sent_files_are_measured_and_removed(known, tmp_path, exported):
    work = tmp_path / "work place"
    url = known.url(work, "&threads=2").replace(" ", "%20")
    measured = open_device(url, Opening()).measure(only(exported, "fp32"), PROFILE)
    (row,) = measured.results
    assert set(row) == FIELDS
    assert (row["device"], row["status"], row["threads"]) == (url, "passed", 2)
    assert len(measured.samples[f"{url}|onnxruntime|fp32|2"]) == row["n"] == 5
    assert list(work.iterdir()) == []


def test_what_is_altered_on_its_way_or_wrong_there_is_named(known, tmp_path, exported):
    copy = Exported(shutil.copytree(exported.folder, tmp_path / "copy"), exported.description)
    flip_byte(copy.file("fp16", "static"))
    device = open_device(known.url(tmp_path / "work"), Opening())
    with pytest.raises(InputError, match=r": fp16\.static\.onnx: altered since it was packaged"):
        device.measure(copy, PROFILE)
    device = open_device(known.url(tmp_path / "work", "&cpus=4095"), Opening())
    with pytest.raises(InputError, match=r"--cpus 4095: expected processors among \d"):
        device.measure(exported, PROFILE)
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unknown_host_is_refused_or_accepted_by_its_fingerprint(sshd, tmp_path):
    url = sshd.url(tmp_path)
    with pytest.raises(InputError) as caught:
        open_device(url, Opening())
    assert f"--accept-host-key {sshd.fingerprint}" in str(caught.value)
    assert "the host is unknown; its key ssh-ed25519" in str(caught.value)
    with pytest.raises(
        InputError, match=rf"key has the fingerprint {sshd.fingerprint.replace('+', '.')}, e"
    ):
        open_device(url, Opening(accept_host_key="SHA256:" + "A" * 43))
    assert not sshd.known_hosts.exists()
    open_device(url, Opening(accept_host_key=sshd.fingerprint))
    assert sshd.known_hosts.stat().st_mode & 0o777 == 0o600
    open_device(url, Opening())


def test_an_unknown_host_is_confirmed_once(sshd, tmp_path):
    sshd.known_hosts.write_text("elsewhere ssh-ed25519 AAAA")  # its last line has no newline
    questions: list[str] = []

    def answer(yes: bool) -> Opening:
        return Opening(ask=lambda question: questions.append(question) is None and yes)

    with pytest.raises(InputError, match="the host key was not accepted"):
        open_device(sshd.url(tmp_path), answer(False))
    open_device(sshd.url(tmp_path), answer(True))
    assert len(questions) == 2
    assert sshd.fingerprint in questions[0]
    assert f"[127.0.0.1]:{sshd.port} is new to this machine" in questions[0]
    first, line = sshd.known_hosts.read_text().splitlines()
    assert first == "elsewhere ssh-ed25519 AAAA"
    assert fingerprint(line) == sshd.fingerprint
    open_device(sshd.url(tmp_path), Opening())


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_changed_host_key_is_refused_whatever_is_allowed(known, tmp_path, kind):
    before = known.known_hosts.read_text()
    other = tmp_path / "other"
    other.mkdir()
    make_key(other / "host_key", kind)
    shutil.copy(known.folder / "user_key", other)
    shutil.copy(known.folder / "user_key.pub", other)
    known.process.terminate()
    known.process.wait(timeout=10)
    with running(other, known.port) as server:
        opening = Opening(accept_host_key=server.fingerprint, ask=lambda _: True)
        with pytest.raises(InputError, match="this may be another machine; if you know why"):
            open_device(known.url(tmp_path), opening)
    assert known.known_hosts.read_text() == before


def test_rejected_logins_and_unreachable_hosts(known, tmp_path, monkeypatch):
    (known.folder / "authorized_keys").write_text("")
    with pytest.raises(
        InputError, match=r"login refused \(.*Permission denied.*\); install your pub"
    ):
        open_device(known.url(tmp_path), Opening())
    known.process.terminate()
    known.process.wait(timeout=10)
    with pytest.raises(InputError, match=r"unreachable \(.*Connection refused\)"):
        open_device(known.url(tmp_path), Opening())
    shorten(monkeypatch, "ConnectTimeout")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = known.url(tmp_path).replace(str(known.port), str(silent.getsockname()[1]))
        start = time.monotonic()
        with pytest.raises(InputError, match=r"unreachable \(.*timed out"):
            open_device(url, Opening())
        assert time.monotonic() - start < 20


def shorten(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """Shorten a time-out to one second."""
    kept = [f"{option}=1" if o.startswith(f"{option}=") else o for o in ssh._OPTIONS]
    monkeypatch.setattr(ssh, "_OPTIONS", tuple(kept))


def test_a_command_that_hangs_is_ended(known, tmp_path, monkeypatch):
    device = open_device(known.url(tmp_path), Opening())
    assert isinstance(device, ssh.SshDevice)
    monkeypatch.setenv("ACKD_DEVICE_TIMEOUT", "0.5")
    with pytest.raises(InputError, match=r"no answer within 0\.5 s; ACKD_DEVICE_TIMEOUT sets"):
        device.run(["sleep", "60"])
    for wrong in ("0", "soon", "inf", "nan"):
        monkeypatch.setenv("ACKD_DEVICE_TIMEOUT", wrong)
        with pytest.raises(InputError, match=f"ACKD_DEVICE_TIMEOUT is '{wrong}', expected a num"):
            commands.timeout_s()


def test_a_host_without_python_is_refused(known, tmp_path):
    url = known.url(tmp_path).partition("?")[0] + "?python=python9"
    device = open_device(url, Opening())
    assert isinstance(device, ssh.SshDevice)
    with pytest.raises(InputError, match=r"cannot run python9 there; choose another with \?py"):
        device.ask_agent("status", str(tmp_path))


def test_a_greeting_does_not_hide_the_answer():
    assert commands.last_json('Welcome to board!\n{"a": 1}\n') == {"a": 1}
    assert commands.last_json(r'{"a\u001b": ["\u001b[2J"]}') == {r"a\x1b": [r"\x1b[2J"]}
    for text in ("", "Welcome", "[" * 100_000, '{"a": 1}\nlogout', "[1]"):
        assert commands.last_json(text) is None


def test_a_configuration_or_ssh_itself_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ACKD_SSH_CONFIG", "/nowhere/config")
    with pytest.raises(InputError, match="ACKD_SSH_CONFIG is '/nowhere/config', expected a file"):
        open_device("ssh://board", Opening())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="ssh is not installed here; install the OpenSSH client"):
        open_device("ssh://board", Opening())
