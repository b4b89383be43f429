"""Devices by URL: what a URL may hold, and which module opens it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from models.errors import InputError

if TYPE_CHECKING:
    from stages.devices.base import Device, Opening


@dataclass(frozen=True)
class Scheme:
    """One kind of device; the module of the same name opens it.

    Attributes:
        form: how a URL looks, for messages.
        address: whether ``//[user@]host[:port]`` or ``//SERIAL`` stands in it; a serial number may
            be left out.
        folder: whether a folder on the device may stand in it.
        options: what may follow ``?``.
    """

    form: str
    address: Literal["none", "host", "serial"]
    folder: bool
    options: tuple[str, ...]


SCHEMES = {
    "local": Scheme(
        "local:[/folder][?cpus=0,1&threads=1,2&python=python3]",
        address="none",
        folder=True,
        options=("cpus", "threads", "python"),
    ),
    "ssh": Scheme(
        "ssh://[user@]host[:port][/folder][?cpus=0,1&threads=1,2&python=python3]",
        address="host",
        folder=True,
        options=("cpus", "threads", "python"),
    ),
    "adb": Scheme(
        "adb:[//SERIAL][?threads=1,2&runner=FILE]",
        address="serial",
        folder=False,
        options=("threads", "runner"),
    ),
}

# None of them may begin with a dash: they stand on command lines.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9a-f]*:[0-9a-f:.]*(%[A-Za-z0-9]+)?")
# As `adb devices` lists them, an address and port among them.
_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:%\[\]-]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+@\\$-]*")
_VALUES = {
    "cpus": (re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*"), "numbers, such as 0,1"),
    "threads": (re.compile(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*"), "numbers from 1 on, such as 1,4"),
    "python": (re.compile(r"[^-\s\0][^\0\n]*"), "a program, such as python3.11"),
    "runner": (re.compile(r"[^-\s\0][^\0\n]*"), "a program's file on this machine"),
}


@dataclass(frozen=True)
class DeviceUrl:
    """A valid URL.

    Attributes:
        text: as it was given; it holds no secret, as a password is refused.
        host: a name, an address or, for adb, a serial number.
        folder: on the device; absolute, or relative to the user's home (``/~/``).
        options: what followed ``?``, each once.
    """

    text: str
    scheme: str
    user: str | None
    host: str | None
    port: int | None
    folder: str | None
    options: dict[str, str]

    @property
    def threads(self) -> list[int] | None:
        """Numbers of threads to measure with instead of ``profile.threads``."""
        given = self.options.get("threads")
        return None if given is None else list(dict.fromkeys(map(int, given.split(","))))

    @property
    def in_browser(self) -> bool:
        """Whether a phone's browser measures, which a person keeps in front."""
        return self.scheme == "adb" and "runner" not in self.options


def parse_url(text: str) -> DeviceUrl:
    """Raises InputError where ``text`` is no URL of a device; the message never has a password."""
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError as error:
        raise InputError(f"a device's URL is not readable ({error}); correct it") from None
    if split.password is not None:
        raise InputError(
            f"the URL of {split.hostname} has a password; leave it out, and use a key or an agent"
        )
    scheme = SCHEMES.get(split.scheme)
    if scheme is None or ":" not in text:
        *forms, last = (known.form for known in SCHEMES.values())
        raise InputError(
            f"the device {text!r} has no known scheme; give {', '.join(forms)} or {last}"
        )
    if problem := next(_problems(split, scheme), None):
        raise InputError(f"the device {text!r}: {problem}; expected {scheme.form}")
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    path = unquote(split.path)
    serial = scheme.address == "serial"
    return DeviceUrl(
        text=text,
        scheme=split.scheme,
        user=split.username,
        # Upper and lower case differ in serial numbers, of which a port is part, and in names that
        # ssh's configuration gives to hosts.
        host=(split.netloc or None) if serial else _host_as_written(split),
        port=None if serial else port,
        folder=(path[3:] if path.startswith("/~/") else path) or None if scheme.folder else None,
        options=options,
    )


def _host_as_written(split: SplitResult) -> str | None:
    place = split.netloc.rpartition("@")[2]
    in_brackets = place.startswith("[")
    return (place[1:].partition("]") if in_brackets else place.partition(":"))[0] or None


def _problems(split: SplitResult, scheme: Scheme) -> Iterator[str]:
    user, host, path = split.username, split.hostname, unquote(split.path)
    if split.fragment:
        yield "nothing may follow a #"
    if scheme.address == "none" and split.netloc:
        yield "it takes no host"
    if scheme.address == "host" and not host:
        yield "the host is missing"
    if scheme.address == "host" and host and not _HOST.fullmatch(host):
        yield "the host name is not valid"
    if scheme.address == "serial" and split.netloc and not _SERIAL.fullmatch(split.netloc):
        yield "the serial number is not valid"
    if user is not None and not _USER.fullmatch(user):
        yield "the user name is not valid"
    if not scheme.folder and path not in ("", "/"):
        yield "it takes no folder"
    if scheme.folder and path and not path.startswith("/"):
        yield "a folder begins with /"
    usable = path.strip("/~") and ".." not in path.split("/") and path.isprintable()
    if scheme.folder and path and not usable:
        yield "a folder below / is needed, without .."
    yield from _problems_of_options(split.query, scheme)


def _problems_of_options(query: str, scheme: Scheme) -> Iterator[str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if query and not pairs:
        yield "what follows ? is not readable"
    for name, value in pairs:
        if name not in scheme.options:
            yield f"{name} is not an option ({', '.join(scheme.options)})"
        elif not _VALUES[name][0].fullmatch(value):
            yield f"{name} must be {_VALUES[name][1]}"
    if len(dict(pairs)) < len(pairs):
        yield "an option is given twice"


def open_device(url: str, opening: Opening) -> Device:
    """The device that ``url`` names, reached and ready.

    Raises:
        InputError: the URL is wrong, or the device cannot be reached or trusted.
    """
    parsed = parse_url(url)
    module = importlib.import_module(f"stages.devices.{parsed.scheme}")
    opener: Callable[[DeviceUrl, Opening], Device] = module.open_device
    return opener(parsed, opening)
