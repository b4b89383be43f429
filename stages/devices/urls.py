"""Parse device URLs, and open devices with the module of their scheme."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from models.errors import InputError

if TYPE_CHECKING:
    from stages.devices.base import Device


class _Scheme(NamedTuple):
    """One kind of device; the module of the same name opens it."""

    form: str  # the form of a URL, for messages
    place: re.Pattern[str]  # the part between the scheme and ?
    options: frozenset[str]


# None may begin with a dash, because they are passed on command lines.
_USER = r"[A-Za-z0-9_.][A-Za-z0-9_.+@\\$-]*"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9]+)?\]"
# As `adb devices` lists them; some are an address and port.
_SERIAL = r"[A-Za-z0-9_\[][A-Za-z0-9._:%\[\]-]*"
_OPTIONS = {
    "cpus": re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*"),
    "threads": re.compile(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*"),
    "python": re.compile(r"[^-\s\0][^\0\n]*"),
    "runner": re.compile(r"[^-\s\0][^\0\n]*"),
}
_SCHEMES = {
    "local": _Scheme(
        "local:[/folder][?cpus=0,1&threads=1,2&python=python3]",
        re.compile(r"(?P<folder>/(?!/).*)?"),
        frozenset({"cpus", "threads", "python"}),
    ),
    "ssh": _Scheme(
        "ssh://[user@]host[:port][/folder][?cpus=0,1&threads=1,2&python=python3]",
        re.compile(
            rf"//((?P<user>{_USER})@)?(?P<host>{_HOST})(:(?P<port>\d{{1,5}}))?(?P<folder>/.*)?"
        ),
        frozenset({"cpus", "threads", "python"}),
    ),
    "adb": _Scheme(
        "adb:[//SERIAL][?threads=1,2&runner=FILE]",
        re.compile(rf"(//(?P<host>{_SERIAL})?)?/?"),
        frozenset({"threads", "runner"}),
    ),
}
_PASSWORD = re.compile(r"\w+://[^/?#]*:[^/?#]*@(?P<host>[^/?#:]*)")


@dataclass(frozen=True)
class DeviceUrl:
    """A valid URL."""

    text: str  # as given; it has no secrets, as passwords are refused
    scheme: str
    user: str | None
    host: str | None  # a name, an address or, for adb, a serial number
    port: int | None
    folder: str | None  # on the device; absolute, or relative to the user's home (/~/)
    options: dict[str, str]  # what follows ?, each once

    @property
    def threads(self) -> list[int] | None:
        """Numbers of threads that replace ``profile.threads``."""
        given = self.options.get("threads")
        return None if given is None else list(dict.fromkeys(map(int, given.split(","))))

    @property
    def in_browser(self) -> bool:
        """Whether a phone's browser measures, which a person must keep in the foreground."""
        return self.scheme == "adb" and "runner" not in self.options


def parse_url(text: str) -> DeviceUrl:
    """Parse a URL; raises InputError if it is invalid, never with the password in the message."""
    if found := _PASSWORD.match(text):
        raise InputError(
            f"the URL of {found['host']} has a password; remove it, and log in by key or agent"
        )
    name, colon, rest = text.partition(":")
    scheme = _SCHEMES.get(name)
    if not colon or scheme is None:
        *forms, last = (known.form for known in _SCHEMES.values())
        raise InputError(
            f"the device {text!r} has no known scheme; expected {', '.join(forms)} or {last}"
        )
    place, _, query = rest.partition("?")
    found = scheme.place.fullmatch(place)
    # Paths may contain "+", which parse_qsl would read as a space.
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    options = dict(pairs)
    if (
        found is None
        or "#" in text
        or not set(options) <= scheme.options
        or not all(_OPTIONS[key].fullmatch(value) for key, value in pairs)
        or len(options) < len(pairs)
    ):
        raise InputError(f"the device {text!r} is not valid; expected {scheme.form}")
    parts = {"user": None, "port": None, "folder": None, **found.groupdict()}
    host = parts["host"] if name == "adb" else (parts.get("host") or "").strip("[]") or None
    return DeviceUrl(
        text=text,
        scheme=name,
        user=parts["user"],
        host=host,
        port=None if parts["port"] is None else int(parts["port"]),
        folder=None if parts["folder"] is None else _folder(unquote(parts["folder"]), text),
        options=options,
    )


def _folder(path: str, text: str) -> str:
    if not path.strip("/~") or ".." in path.split("/") or not path.isprintable():
        raise InputError(f"the device {text!r} needs a folder below /, without ..")
    return path.removeprefix("/~/")


def open_device(url: str) -> Device:
    """Connect to the device of a URL; raises InputError if it is wrong, or out of reach."""
    parsed = parse_url(url)
    module = importlib.import_module(f"stages.devices.{parsed.scheme}")
    opener: Callable[[DeviceUrl], Device] = module.open_device
    return opener(parsed)
