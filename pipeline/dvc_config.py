"""Reads a project's DVC configuration with DVC's own parser, without opening the project."""

from pathlib import Path
from typing import Any

from models.errors import InputError

CONFIG = ".dvc/config"  # the configuration in git; .dvc/config.local stays on this machine


def _read(root: Path) -> Any:
    from dvc.config import Config, ConfigError

    try:
        return Config(str(root.resolve() / ".dvc"))
    except ConfigError as error:
        raise InputError(f"{' '.join(str(error).split())}; correct DVC's configuration") from None


def cache_folder(root: Path) -> Path:
    """Return DVC's cache folder; raises InputError if the configuration is damaged."""
    return Path(_read(root)["cache"].get("dir") or root / ".dvc/cache").resolve()


def default_remote(root: Path) -> str | None:
    """Return the name of the remote that ``dvc push`` uses, if there is one."""
    name: str | None = _read(root)["core"].get("remote")
    return name


def shared_remote(root: Path) -> str:
    """Return the default remote of every clone, ignoring this machine's own settings.

    Raises:
        InputError: the configuration in git names none or is damaged.
    """
    name = _read(root).load_one("repo")["core"].get("remote")
    if name is None:
        raise InputError(
            f"{CONFIG}: names no default remote for others to fetch from; run"
            f" `dvc remote add --default NAME URL` and commit {CONFIG}"
        )
    return str(name)
