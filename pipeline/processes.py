"""Which processes of this machine are at work in a project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Holder(NamedTuple):
    """A process that has said in DVC's ``rwlock`` that it reads or writes something."""

    pid: int
    command: str

    @property
    def alive(self) -> bool:
        return bool(psutil.pid_exists(self.pid))


def holders(root: Path) -> list[Holder]:
    """Of the files of the project in ``root``, each once; none where nothing is being worked on."""
    try:
        content: Any = json.loads((root / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
        written = list(content.get("write", {}).values())
        read = [entry for entries in content.get("read", {}).values() for entry in entries]
        found = {Holder(int(entry["pid"]), str(entry["cmd"])) for entry in [*written, *read]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(found)


def working_folders() -> set[Path]:
    """The working directories of all processes of this machine that the system lets us see."""
    found = (process.info["cwd"] for process in psutil.process_iter(["cwd"]))
    return {Path(folder) for folder in found if folder}
