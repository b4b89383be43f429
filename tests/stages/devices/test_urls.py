import pytest

from models.errors import InputError
from stages.devices.urls import parse_url


def test_parts_of_a_url():
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
    phone = parse_url("adb://R58M30ABC?threads=2&runner=build/c++/my%20bench")
    assert (phone.host, phone.port, phone.folder) == ("R58M30ABC", None, None)
    assert (phone.threads, phone.options["runner"]) == ([2], "build/c++/my bench")
    for serial in ("emulator-5554", "192.168.1.7:5555", "[fe80::1]:5555", "adb-X-y._adb._tcp"):
        assert parse_url(f"adb://{serial}").host == serial
    for only in ("adb:", "adb://", "adb:///", "adb:?threads=1"):
        assert parse_url(only).host is None


@pytest.mark.parametrize("text", ["", "local", "telnet://board"])
def test_unknown_schemes_are_refused(text):
    with pytest.raises(InputError, match="no known scheme; expected local:.*, ssh://.* or adb:"):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        *("local://board", "local:model", "local:#x", "local:/x#x"),
        *("local:?cpus=zero", "local:?threads=0", "local:?cpu=0", "local:?cpu"),
        *("local:?cpus=0&cpus=1", "local:?python=-c", "local:?python=", "local:?runner=x"),
        *("ssh:", "ssh://", "ssh://pi@", "ssh://board:port", "ssh://board:22:22", "ssh:/board"),
        # Would be an option on ssh's command line.
        *("ssh://-oProxyCommand=reboot/x", "ssh://-l@board", "ssh://a%20b/x", "ssh://a b"),
        *("ssh://board\n", "ssh://fe80::1", "ssh://[-o]", "ssh://[::1"),
        *("adb://-s", "adb://R58M;reboot", "adb://R58M/data", "adb:R58M", "adb://R58M\n"),
        *("adb:?python=python3", "adb:?runner=", "adb:?cpus=0"),
    ],
)
def test_invalid_urls_are_refused(text):
    with pytest.raises(InputError, match=r"is not valid; expected (local|ssh|adb):") as caught:
        parse_url(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["/", "/~/", "/srv/../etc", "/srv/%00", "/a%0ab", "/~/.."])
def test_invalid_folders_are_refused(folder):
    for place in ("local:", "ssh://board"):
        with pytest.raises(InputError, match=r"needs a folder below /, without \.\."):
            parse_url(place + folder)


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(InputError, match=r"^the URL of board has a password; remove it, and") as c:
        parse_url("ssh://pi:hunter2@board/x")
    assert "hunter2" not in str(c.value)
