"""What a project's DVC configuration says, read from its files: starting DVC takes a second."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import NamedTuple

from platformdirs import site_config_dir, user_config_dir

from models.errors import InputError

_NAMES = ("dvc", "iterative")


def _files(root: Path) -> list[Path]:
    """Each is laid over those before it: the machine's, the user's, the project's, one's own."""
    system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir(*_NAMES)
    user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir(*_NAMES)
    project = root / ".dvc"
    return [Path(folder, "config") for folder in (system, user, project)] + [
        project / "config.local"
    ]


def _read(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    for path in _files(root):
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            raise InputError(f"{path}: not readable as DVC's configuration; correct it") from None
    return parser


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the outputs of all stages; it need not exist.

    Raises:
        InputError: the configuration is damaged.
    """
    place = _read(root).get("cache", "dir", fallback="cache")
    return root.resolve() / ".dvc" / place  # which a relative one is relative to


def links_outputs(root: Path) -> bool:
    """Whether outputs are links to the cache; else each is there twice."""
    kinds = _read(root).get("cache", "type", fallback="reflink,copy")
    # Whether a reflink works is seen when it is tried; a copy is what it falls back to.
    return kinds.replace(" ", "").split(",")[0] in ("hardlink", "symlink")


class Remote(NamedTuple):
    """Where results are pushed to; ``endpoint`` and ``port`` are those that are set beside it."""

    name: str
    url: str
    endpoint: str | None = None
    port: int | None = None


def remotes(root: Path) -> list[Remote]:
    """The default one first.

    Raises:
        InputError: the configuration is damaged.
    """
    parser = _read(root)
    default = parser.get("core", "remote", fallback=None)
    found = []
    for section in parser.sections():
        match = re.fullmatch(r"""'?\s*remote\s*"(.+)"\s*'?""", section)
        if match and parser.has_option(section, "url"):
            port = parser.get(section, "port", fallback="")
            found.append(
                Remote(
                    match[1],
                    parser.get(section, "url"),
                    parser.get(section, "endpointurl", fallback=None),
                    int(port) if port.isdecimal() else None,
                )
            )
    return sorted(found, key=lambda remote: (remote.name != default, remote.name))
