from __future__ import annotations

import pytest

from models.errors import InputError
from stages.devices.base import Opening
from stages.devices.local import LocalDevice
from stages.devices.urls import open_device, parse_url
from stages.params import parse_params


def test_parts_of_a_url() -> None:
    url = parse_url("ssh://pi@board.local:2222/srv/model?cpus=0,2-3&threads=1,4&python=/usr/bin/py")
    assert (url.scheme, url.user, url.host, url.port) == ("ssh", "pi", "board.local", 2222)
    assert url.folder == "/srv/model"
    assert url.options == {"cpus": "0,2-3", "threads": "1,4", "python": "/usr/bin/py"}
    assert url.threads == [1, 4]
    assert parse_url("ssh://board/~/models/a%20b").folder == "models/a b"
    local = parse_url("local:")
    assert (local.user, local.host, local.port, local.folder, local.threads) == (None,) * 5
    assert parse_url("local:/srv/model").folder == "/srv/model"
    assert parse_url("ssh://[fe80::1]:22").host == "fe80::1"
    assert parse_url("ssh://Me@Lab-Pi:22/x").host == "Lab-Pi"  # an alias of ssh's configuration
    # Upper and lower case differ in serial numbers, and a port belongs to them.
    phone = parse_url("adb://R58M30ABC?threads=2&runner=bin/bench")
    assert (phone.host, phone.port, phone.folder) == ("R58M30ABC", None, None)
    assert (phone.threads, phone.options["runner"]) == ([2], "bin/bench")
    for serial in ("emulator-5554", "192.168.1.7:5555", "[fe80::1]:5555", "adb-X-y._adb._tcp"):
        assert parse_url(f"adb://{serial}").host == serial
    for only in ("adb:", "adb://", "adb:///", "adb:?threads=1"):
        assert parse_url(only).host is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no known scheme; give local:"),
        ("telnet://board", "has no known scheme; give local:.*, ssh://.* or adb:"),
        ("local://board", "it takes no host"),
        ("local:?cpus=zero", "cpus must be numbers, such as 0,1"),
        ("local:?threads=0", "threads must be numbers from 1 on"),
        ("local:?cpu=0", r"cpu is not an option \(cpus, threads, python\)"),
        ("local:?cpus=0&cpus=1", "an option is given twice"),
        ("local:?python=-c", "python must be a program"),
        ("local:model", "a folder begins with /"),
        ("local:/", "a folder below / is needed"),
        ("local:/srv/../etc", r"without \.\."),
        ("local:/srv/%00", "a folder below / is needed"),
        ("local:#x", "nothing may follow a #"),
        ("ssh:", "the host is missing"),
        ("ssh://pi@", "the host is missing"),
        ("ssh://board:port", "is not readable"),
        # What would be an option on ssh's command line.
        ("ssh://-oProxyCommand=reboot/x", "the host name is not valid"),
        ("ssh://-l@board", "the user name is not valid"),
        ("ssh://a%20b/x", "the host name is not valid"),
        ("adb://-s", "the serial number is not valid"),
        ("adb://R58M;reboot", "the serial number is not valid"),
        ("adb://R58M/data", "it takes no folder"),
        ("adb:R58M", "it takes no folder"),
        ("adb:?python=python3", r"python is not an option \(threads, runner\)"),
        ("adb:?runner=", "runner must be a program's file on this machine"),
    ],
)
def test_what_is_no_url_of_a_device(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        parse_url(text)
    assert "\n" not in str(caught.value)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match=r"^the URL of board has a password; leave it out") as c:
        parse_url("ssh://pi:hunter2@board/x")
    assert "hunter2" not in str(c.value)


def test_params_take_devices_that_exist_as_kinds() -> None:
    devices = ["local:?cpus=0", "ssh://pi@board", "adb://R58M?runner=bench"]
    assert parse_params({"profile": {"devices": devices}}).profile.devices == devices
    for wrong, sentence in (
        (["locl:"], "profile: the device 'locl:' has no known scheme; give local:"),
        (["local:", "local:"], "profile: devices must name each device once"),
        ([], "at least 1 item"),
        (["local:", "adb:"], "'adb:' measures in a phone's browser, .* `ackd profile`, or add"),
    ):
        with pytest.raises(InputError, match=sentence):
            parse_params({"profile": {"devices": wrong}})


def test_opening_a_local_device() -> None:
    assert isinstance(open_device("local:", Opening()), LocalDevice)
    with pytest.raises(InputError, match="--send-wheels is for devices that are reached by ssh"):
        open_device("local:", Opening(send_wheels=True))
