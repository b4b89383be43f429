"""Stage ``identify_device``: describe hardware and versions, without anything that fluctuates.

The stage always runs, so it must be quick: it reads versions without importing runtimes.
"""

import contextlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from stages.entry import run_stage
from stages.files import write_json
from stages.params import Params
from stages.runtimes.versions import DISTRIBUTIONS, version_of

REPORT = Path("reports/device.json")

CPUINFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# The few flags that matter for the speed of small networks: vector widths, half precision and int8
# products.
_X86 = ["sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni"]
_X86 += ["avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"]
_ARM = ["neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"]
_FEATURES = {*_X86, *_ARM}
_MACOS_FEATURES = {
    **{f"hw.optional.arm.FEAT_{name}": name for name in ("FP16", "DotProd", "I8MM", "BF16")},
    **{f"hw.optional.{name}": name for name in ("avx2_0", "avx512f")},
}


def main(params: Params) -> None:
    write_json(REPORT, identify())


def identify() -> dict[str, Any]:
    """Return the content of ``reports/device.json``; unknown values are null."""
    cpu, features = cpu_of_macos() if platform.system() == "Darwin" else cpu_of_linux(CPUINFO)
    return {
        "system": _system(),
        "machine": platform.machine(),
        "cpu": cpu or platform.processor() or None,
        "cores": os.cpu_count(),
        "cpu_features": features,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "governor": _governor(),
        "gpu": gpu(),
        "python": platform.python_version(),
        "runtimes": {name: version_of(name) for name in DISTRIBUTIONS},
    }


def cpu_of_linux(cpuinfo: Path) -> tuple[str | None, list[str]]:
    """Return model name and features, each from the first processor that has it.

    Arm kernels give only the board's name (``Model``), or none.
    """
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("Model") or fields.get("Hardware")
    flags = fields.get("flags") or fields.get("Features") or ""
    return name, sorted(_FEATURES & set(flags.split()))


def cpu_of_macos() -> tuple[str | None, list[str]]:
    """As :func:`cpu_of_linux`, from ``sysctl``."""
    settings = dict(line.partition(": ")[::2] for line in _output(["sysctl", "-a"]).splitlines())
    features = sorted(name for key, name in _MACOS_FEATURES.items() if settings.get(key) == "1")
    return settings.get("machdep.cpu.brand_string"), features


def gpu() -> dict[str, Any] | None:
    """Return the first NVIDIA GPU by ``nvidia-smi``; None without the tool or a GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total"]
    for line in _output([*query, "--format=csv,noheader,nounits"]).splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3:
            name, driver, memory = fields
            # Boards whose GPU shares the CPU's memory report no number.
            known = int(memory) if memory.isdigit() else None
            return {"name": name, "driver": driver, "memory_mb": known}
    return None


def _output(command: list[str]) -> str:
    """Return a command's output; empty if it is absent, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"


def _governor() -> str | None:
    with contextlib.suppress(OSError):
        return GOVERNOR.read_text(encoding="utf-8").strip()
    return None


if __name__ == "__main__":
    run_stage(main)
