"""A project's DVC configuration, by DVC's own reader, but without opening the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def default_remote(root: Path) -> str | None:
    """The name of the remote that ``dvc push`` uses, if there is one."""
    name: str | None = _read(root)["core"].get("remote")
    return name


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
