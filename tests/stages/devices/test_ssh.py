"""Measure over the system's ssh, on a real sshd on loopback."""

import re
import shutil
import socket
import sys
import time

import pytest

from models.errors import InputError
from stages.devices import commands, ssh
from stages.devices.urls import open_device
from stages.runtimes.exported import Exported
from tests.bundles import flip_byte
from tests.sshd import needs_sshd, running
from tests.stages.devices.conftest import PROFILE, only
from tests.stages.test_profile_latency import FIELDS

pytestmark = needs_sshd


@pytest.fixture
def known(sshd):
    """A server whose key is known."""
    sshd.trust()
    return sshd


def assert_refused(url: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        open_device(url)


def test_sent_files_are_measured_and_removed(known, tmp_path, exported):
    work = tmp_path / "work place"
    url = known.url(work, "&threads=2").replace(" ", "%20")
    measured = open_device(url).measure(only(exported, "fp32"), PROFILE)
    (row,) = measured.results
    assert set(row) == FIELDS
    assert (row["device"], row["status"], row["threads"]) == (url, "passed", 2)
    assert len(measured.samples[f"{url}|onnxruntime|fp32|2"]) == row["n"] == 5
    assert list(work.iterdir()) == []


def test_what_is_altered_on_its_way_or_wrong_there_is_named(known, tmp_path, exported):
    copy = Exported(shutil.copytree(exported.folder, tmp_path / "copy"), exported.description)
    flip_byte(copy.file("fp16", "static"))
    for query, models, sentence in (
        ("", copy, r": fp16\.static\.onnx: altered since it was packaged"),
        ("&cpus=4095", exported, r"--cpus 4095: expected processors among \d"),
    ):
        with pytest.raises(InputError, match=sentence):
            open_device(known.url(tmp_path / "work", query)).measure(models, PROFILE)
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unknown_host_is_refused(sshd, tmp_path):
    command = rf"`ssh -F .*/ssh_config -p {sshd.port} -l .* -- 127\.0\.0\.1`"
    assert_refused(sshd.url(tmp_path), rf"the host is unknown; connect once with {command}, and ac")
    assert not sshd.known_hosts.exists()


def test_a_changed_host_key_is_refused(known, tmp_path):
    before = known.known_hosts.read_text()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(known.folder / "user_key", other)
    shutil.copy(known.folder / "user_key.pub", other)
    known.process.terminate()
    known.process.wait(timeout=10)
    with running(other, known.port):
        assert_refused(known.url(tmp_path), "this may be another machine; if you know")
    assert known.known_hosts.read_text() == before


def test_rejected_logins_and_unreachable_hosts(known, tmp_path, monkeypatch):
    (known.folder / "authorized_keys").write_text("")
    url = known.url(tmp_path)
    assert_refused(url, r"login refused \(.*Permission denied.*\); install your public key")
    known.process.terminate()
    known.process.wait(timeout=10)
    assert_refused(url, r"unreachable \(.*Connection refused\)")
    options = [re.sub("(ConnectTimeout)=.*", r"\1=1", option) for option in ssh._OPTIONS]
    monkeypatch.setattr(ssh, "_OPTIONS", tuple(options))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        url = url.replace(str(known.port), str(silent.getsockname()[1]))
        assert_refused(url, r"unreachable \(.*timed out")
        assert time.monotonic() - start < 20


def test_a_command_that_hangs_is_ended(known, tmp_path, monkeypatch):
    device = open_device(known.url(tmp_path))
    monkeypatch.setenv("ACKD_DEVICE_TIMEOUT", "0.5")
    with pytest.raises(InputError, match=r"no answer within 0\.5 s; ACKD_DEVICE_TIMEOUT sets"):
        device.run(["sleep", "60"])
    for wrong in ("0", "soon", "inf", "nan"):
        monkeypatch.setenv("ACKD_DEVICE_TIMEOUT", wrong)
        with pytest.raises(InputError, match=f"ACKD_DEVICE_TIMEOUT is '{wrong}', expected a num"):
            commands.timeout_s()


def test_a_command_that_crashes_is_no_lost_connection(known, tmp_path):
    device = open_device(known.url(tmp_path))
    crash = device.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], b"")
    assert crash.code == 128 + 9
    assert device.run(["sh", "-c", "exit 7"], b"").code == 7


def test_a_host_without_a_python_that_is_new_enough_is_refused(known, tmp_path):
    old = tmp_path / "python3.6"
    claim = "import sys; sys.version_info = (3, 6, 9, 'final', 0); exec(sys.argv.pop(1))"
    old.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "{claim}" "$@"\n')
    old.chmod(0o755)
    for python, reason in (("python9", "cannot run python9 there"), (old, "Python 3.6 is too old")):
        url = known.url(tmp_path).partition("?")[0] + f"?python={python}"
        device = open_device(url)
        with pytest.raises(InputError, match=rf"{reason}.*; choose another with \?python=<prog"):
            device.ask_agent("status", str(tmp_path))


def test_a_greeting_does_not_hide_the_answer():
    assert commands.last_json('Welcome to board!\n{"a": 1}\n') == {"a": 1}
    assert commands.last_json(r'{"a\u001b": ["\u001b[2J"]}') == {r"a\x1b": [r"\x1b[2J"]}
    for text in ("", "Welcome", "[" * 100_000, '{"a": 1}\nlogout', "[1]"):
        assert commands.last_json(text) is None


def test_a_configuration_or_ssh_itself_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("ACKD_SSH_CONFIG", "/nowhere/config")
    assert_refused("ssh://board", "ACKD_SSH_CONFIG is '/nowhere/config', expected a file")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused("ssh://board", "ssh is not installed here; install the OpenSSH client")
