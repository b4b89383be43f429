"""A project's DVC configuration, by DVC's own reader, but without opening the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from models.errors import InputError

CONFIG = ".dvc/config"
"""What git carries; ``.dvc/config.local`` stays on this machine."""


def _read(root: Path) -> Any:
    from dvc.config import Config, ConfigError

    try:
        return Config(str(root.resolve() / ".dvc"))
    except ConfigError as error:
        raise InputError(f"{' '.join(str(error).split())}; correct DVC's configuration") from None


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the outputs of all stages; it need not exist.

    Raises:
        InputError: the configuration is damaged.
    """
    return Path(_read(root)["cache"].get("dir") or root / ".dvc/cache").resolve()


def links_outputs(root: Path) -> bool:
    """Whether outputs are links to the cache; else each is there twice."""
    # Whether a reflink works is seen when it is tried; a copy is what it falls back to.
    return bool(_read(root)["cache"].get("type", ["reflink"])[0] in ("hardlink", "symlink"))


class Remote(NamedTuple):
    """Where results are pushed to."""

    name: str
    url: str


def default_remote(root: Path) -> str | None:
    """The name of the remote that ``dvc push`` uses, if there is one."""
    name: str | None = _read(root)["core"].get("remote")
    return name


def remotes(root: Path) -> list[Remote]:
    """The default one first.

    Raises:
        InputError: the configuration is damaged.
    """
    config = _read(root)
    found = [Remote(name, str(one["url"])) for name, one in config["remote"].items()]
    return sorted(found, key=lambda one: (one.name != config["core"].get("remote"), one.name))


def shared_remote(root: Path) -> str:
    """The default remote of all who clone the project, whatever this machine's own default is.

    Raises:
        InputError: the file that git carries names none, or the configuration is damaged.
    """
    name = _read(root).load_one("repo")["core"].get("remote")
    if name is None:
        raise InputError(
            f"{CONFIG}: names no default remote, from which others could fetch; run"
            f" `dvc remote add --default NAME URL` and commit {CONFIG}"
        )
    return str(name)
