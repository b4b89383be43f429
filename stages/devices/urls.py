"""Devices by URL: what a URL may say, and which module opens it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from models.errors import InputError

if TYPE_CHECKING:
    from stages.devices.base import Device, Opening


@dataclass(frozen=True)
class Scheme:
    """One kind of device.

    Attributes:
        module: has ``open_device(url: DeviceUrl, opening: Opening) -> Device``; it is imported
            when a device of this kind is opened, not before.
        form: how a URL looks, for messages.
        address: whether ``//[user@]host[:port]`` or ``//SERIAL`` stands in it; a serial number may
            be left out.
        folder: whether a folder on the device may stand in it.
        options: what may follow ``?``.
    """

    module: str
    form: str
    address: Literal["none", "host", "serial"]
    folder: bool
    options: tuple[str, ...]


SCHEMES = {
    "local": Scheme(
        "stages.devices.local",
        "local:[/folder][?cpus=0,1&threads=1,2&python=python3]",
        address="none",
        folder=True,
        options=("cpus", "threads", "python"),
    ),
    "ssh": Scheme(
        "stages.devices.ssh",
        "ssh://[user@]host[:port][/folder][?cpus=0,1&threads=1,2&python=python3]",
        address="host",
        folder=True,
        options=("cpus", "threads", "python"),
    ),
    "adb": Scheme(
        "stages.devices.adb",
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
    """A URL that was found right.

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
    problem = _problem(split, scheme)
    if problem:
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


def _problem(split: SplitResult, scheme: Scheme) -> str | None:
    user, path = split.username, unquote(split.path)
    serial = split.netloc if scheme.address == "serial" else ""
    host = None if serial else split.hostname
    folder = path if scheme.folder else ""
    found = {
        "nothing may follow a #": bool(split.fragment),
        "it takes no host": scheme.address == "none" and bool(split.netloc),
        "the host is missing": scheme.address == "host" and not host,
        "this is no name of a host": bool(host) and not _HOST.fullmatch(host or ""),
        "this is no serial number": bool(serial) and not _SERIAL.fullmatch(serial),
        "this is no name of a user": user is not None and not _USER.fullmatch(user),
        "it takes no folder": not scheme.folder and path not in ("", "/"),
        "a folder begins with /": bool(folder) and not folder.startswith("/"),
        "a folder below / is needed, without ..": bool(folder)
        and (not folder.strip("/~") or ".." in folder.split("/") or not folder.isprintable()),
    }
    return next((problem for problem, is_so in found.items() if is_so), None) or (
        _problem_of_options(split.query, scheme)
    )


def _problem_of_options(query: str, scheme: Scheme) -> str | None:
    pairs = parse_qsl(query, keep_blank_values=True)
    if query and not pairs:
        return "what follows ? is not readable"
    for name, value in pairs:
        if name not in scheme.options:
            return f"{name} is no option ({', '.join(scheme.options) or 'it takes none'})"
        pattern, wanted = _VALUES.get(name, (None, ""))
        if pattern is not None and not pattern.fullmatch(value):
            return f"{name} must be {wanted}"
    if len(dict(pairs)) < len(pairs):
        return "an option is given twice"
    return None


def open_device(url: str, opening: Opening) -> Device:
    """The device that ``url`` names, reached and ready.

    Raises:
        InputError: the URL is wrong, or the device cannot be reached or trusted.
    """
    parsed = parse_url(url)
    module = importlib.import_module(SCHEMES[parsed.scheme].module)
    opener: Callable[[DeviceUrl, Opening], Device] = module.open_device
    return opener(parsed, opening)
