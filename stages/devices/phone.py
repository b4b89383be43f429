"""Description, thermal state and fixed-performance mode of an Android device."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from models.errors import InputError, printable
from stages.devices.adb_client import Adb
from stages.devices.base import Row

#: From android.os.Temperature; thermal limits apply to the skin.
_SENSORS = {"skin": 3, "battery": 2}


class Thermal(NamedTuple):
    """The thermal state of a device; None for unknown values."""

    status: int | None
    """From android.os.PowerManager, 0 (none) to 6 (shutdown); throttled from 1 on."""
    sensor: str | None  # the source of the temperature, skin or battery
    temperature: float | None  # in degrees Celsius


def describe(adb: Adb) -> dict[str, Any]:
    """Describe the device as in ``docs/files.md``, without the runtime."""
    listed = re.findall(r"^\[(.+?)\]: \[(.*)\]\r?$", adb.shell("getprop").out, re.MULTILINE)
    known = {name: printable(value) for name, value in listed}

    def first(*names: str) -> str | None:
        return next((known[name] for name in names if known.get(name)), None)

    maker, model = first("ro.product.manufacturer"), first("ro.product.model")
    if maker and model and not model.lower().startswith(maker.lower()):
        model = f"{maker} {model}"
    chip = first("ro.soc.model", "ro.hardware.chipname", "ro.board.platform", "ro.hardware")
    if chip is not None and chip == known.get("ro.soc.model"):
        chip = " ".join(filter(None, (known.get("ro.soc.manufacturer"), chip)))
    version = first("ro.build.version.release")
    cores = adb.shell("nproc").out.strip()
    governor = adb.shell("cat", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "system": f"Android {version}" if version else "Android",
        "machine": model,
        "cpu": chip,
        "cores": int(cores) if cores.isdecimal() else None,
        "governor": printable(governor.out.strip()) or None if governor.code == 0 else None,
        "python": None,
    }


def thermal(adb: Adb) -> Thermal:
    return parse_thermal(adb.shell("dumpsys", "thermalservice").out)


def parse_thermal(text: str) -> Thermal:
    """Parse the output of ``dumpsys thermalservice`` of Android 10 and newer."""
    status = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    # The section before this one lists cached readings, which may be stale.
    readings = _readings(text.partition("Current temperatures from HAL:")[2]) or _readings(text)
    sensor = next((sensor for sensor, kind in _SENSORS.items() if kind in readings), None)
    warmest = None if sensor is None else round(max(readings[_SENSORS[sensor]]), 1)
    return Thermal(int(status[1]) if status else None, sensor, warmest)


def _readings(text: str) -> dict[int, list[float]]:
    """Return temperatures by kind of sensor."""
    found: dict[int, list[float]] = {}
    for value, kind in re.findall(r"\bTemperature\{mValue=(-?\d+(?:\.\d+)?), mType=(\d+),", text):
        if float(value) != 0:  # sensors that the device lacks report 0
            found.setdefault(int(kind), []).append(float(value))
    return found


def mark(row: Row, before: Thermal, after: Thermal) -> Row:
    """Add the temperatures to a row, and call it noisy if the device was throttled."""
    if row["n"] is None:
        return row
    slowed = any(state.status not in (None, 0) for state in (before, after))
    return row | {
        "temperature_before": before.temperature,
        "temperature_after": after.temperature,
        "noisy": row["noisy"] or slowed,
    }


@contextlib.contextmanager
def fixed_performance(adb: Adb) -> Iterator[str | None]:
    """Limit the device to sustainable clock speeds; yield why it refuses, or None.

    Raises InputError if the device was lost before the mode could be switched off.
    """
    refusal, trouble = None, None
    try:
        refusal = _set_fixed(adb, on=True)
        yield refusal
    except InputError as error:
        trouble = str(error)
        raise
    finally:
        # Also after Ctrl-C, when the mode may or may not be on.
        if refusal is None and not _ended(adb):
            raise InputError(
                f"{trouble or f'{adb.url}: the connection was lost'}; the device may still be in"
                " fixed-performance mode: restart it, or run"
                f" `adb -s {adb.serial} shell {_FIXED} false`"
            )


_FIXED = "cmd power set-fixed-performance-mode-enabled"


def _set_fixed(adb: Adb, *, on: bool) -> str | None:
    """Switch the mode; return why the device refuses, or None (success prints nothing)."""
    finished = adb.shell(*_FIXED.split(), "true" if on else "false")
    output = printable(" ".join((finished.err + finished.out).split()))
    if finished.code or output:
        return output or f"status {finished.code}"
    return None


def _ended(adb: Adb) -> bool:
    try:
        return _set_fixed(adb, on=False) is None
    except InputError:
        return False
