"""Which processes of this machine work in a project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Holder(NamedTuple):
    """A process that DVC's ``rwlock`` lists as reading or writing something."""

    pid: int
    command: str

    @property
    def alive(self) -> bool:
        return bool(psutil.pid_exists(self.pid))


def holders(root: Path) -> list[Holder]:
    """The processes that hold files of the project in ``root``, each once."""
    try:
        content: Any = json.loads((root / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
        written = list(content.get("write", {}).values())
        read = [entry for entries in content.get("read", {}).values() for entry in entries]
        found = {Holder(int(entry["pid"]), str(entry["cmd"])) for entry in [*written, *read]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(found)


def working_folders() -> set[Path]:
    """The working directories of the processes that the system shows us."""
    found = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return {Path(folder) for folder in found if folder}
