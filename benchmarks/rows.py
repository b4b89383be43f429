"""Who is compared: one row of the table each."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.machine import cores

#: Of RepDistiller's loader: its default, and the cores at hand. The faster one counts.
WORKERS = sorted({8, cores()})
#: The limits' names, and torch's.
LIMITS = {"fp32": "float32", "bf16": "bfloat16"}
NO_TORCHDISTILL = "torchdistill is not installed here; give --torchdistill-python"
_CONTENDERS = "benchmarks.contenders"


@dataclass(frozen=True)
class Row:
    """A contender.

    Attributes:
        title: for the table.
        module: the one that trains it.
        options: what that module asks for.
        python: the interpreter that has its packages.
        reason: why it cannot be measured here; None where it can.
        method: whose multiply-adds it makes.
        teacher: whether it runs the teacher.
        ours: whether it computes in the precision that ``auto`` gives, and not in fp32.
    """

    title: str
    module: str
    options: dict[str, Any]
    python: str = sys.executable
    reason: str | None = None
    method: str = "kd"
    teacher: bool = True
    ours: bool = False

    @property
    def compiled(self) -> bool:
        return bool(self.options.get("compile"))


def our_rows() -> dict[str, Row]:
    """Our own contenders: ``kd_live``, ``ackd_warm_compiled`` and so on."""
    rows = {}
    for compiled in (False, True):
        for method in ("kd", "ackd"):
            for store in (False, True):
                key = f"{method}_{'warm' if store else 'live'}{'_compiled' if compiled else ''}"
                how = "warm store" if store else "live teacher"
                title = f"{method.upper()}, {how}{', compiled' if compiled else ''}"
                options = {"method": method, "store": store, "compile": compiled}
                rows[key] = Row(
                    title,
                    f"{_CONTENDERS}.ours",
                    options,
                    method=method,
                    teacher=not store,
                    ours=True,
                )
    return rows


def peer_rows(checkout: Path, torchdistill_python: str | None) -> dict[str, Row]:
    """``repdistiller_<workers>`` and ``torchdistill``.

    Raises:
        InputError: ``checkout`` is none of RepDistiller, or the interpreter is no program.
    """
    if not (checkout / "helper/loops.py").is_file():
        raise InputError(
            f"{checkout}: expected a checkout of RepDistiller, but there is no helper/loops.py;"
            " clone https://github.com/HobbitLong/RepDistiller and give its folder"
        )
    python, reason = _find_torchdistill(torchdistill_python)
    rows = {}
    for count in WORKERS:
        rows[f"repdistiller_{count}"] = Row(
            f"RepDistiller, {count} workers",
            f"{_CONTENDERS}.repdistiller",
            {"checkout": str(checkout.resolve()), "workers": count},
        )
    # Its loader is torch's, as RepDistiller's: what is learned there need not be measured again.
    rows["torchdistill"] = Row(
        f"torchdistill, {cores()} workers",
        f"{_CONTENDERS}.torchdistill",
        {"workers": cores()},
        python,
        reason,
    )
    return rows


def limit_rows() -> dict[str, Row]:
    """Large matrix products: ``limit_fp32`` and ``limit_bf16``."""
    return {
        f"limit_{name}": Row(f"limit in {name}", f"{_CONTENDERS}.processor", {"dtype": dtype})
        for name, dtype in LIMITS.items()
    }


def _find_torchdistill(given: str | None) -> tuple[str, str | None]:
    """The interpreter that has it, and why none is known."""
    if given is None:
        absent = importlib.util.find_spec("torchdistill") is None
        return sys.executable, NO_TORCHDISTILL if absent else None
    found = shutil.which(given)
    if found is None:
        raise InputError(
            f"--torchdistill-python: {given} is no program; give the path of a Python interpreter"
            " that has torchdistill"
        )
    # Not resolved: a virtual environment's interpreter is a link.
    return str(Path(found).absolute()), None
