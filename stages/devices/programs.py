"""The programs sent to devices, each as a single file: ``runner.py`` and ``agent.py``."""

import re
from pathlib import Path

RUNNER = Path(__file__).parent / "runner.py"
AGENT = Path(__file__).parent / "agent.py"

_IMPORT = re.compile(r"^from stages\.devices\.(\w+) import (?:\([^)]*\)|.*)\n", re.MULTILINE)
_FUTURE = "from __future__ import annotations\n"


def single_file(program: Path) -> bytes:
    """Return a program with its imports from this folder, such as ``proof.py``, inlined."""

    def inlined(found: re.Match[str]) -> str:
        text = program.with_name(f"{found[1]}.py").read_text(encoding="utf-8")
        return text.partition(_FUTURE)[2]

    return _IMPORT.sub(inlined, program.read_text(encoding="utf-8")).encode()
