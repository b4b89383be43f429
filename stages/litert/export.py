"""Convert, validate and time each precision for ``export_litert``."""

import sys
from pathlib import Path
from typing import Any

from stages.devices.proof import DeviceError
from stages.devices.rules import outcome
from stages.files import sha256
from stages.formatting import threads as number_of_threads
from stages.litert.timing import time_file
from stages.params import Params
from stages.progress import track
from stages.runtimes.base import Job, RuntimeFailureError
from stages.runtimes.exported import load_exported
from stages.runtimes.litert_runtime import LiteRtRuntime
from stages.runtimes.parity import OF_ANSWERS, breaches, measurements, read_reference
from stages.runtimes.process import run_apart, run_process
from stages.sections.export import Profile

Row = dict[str, Any]

_UNTIMED = (
    *("init_ms", "first_ms", "n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "cv"),
    *("load_before", "load_after", "temperature_before", "temperature_after", "noisy", "golden"),
)


def export(folder: Path, params: Params) -> tuple[list[Row], dict[str, list[float]]]:
    """Write the files of the student into ``folder``, and time them on this machine.

    Returns:
        A row of ``reports/litert.json`` for each precision, with the reason if it failed, and
        samples: times in ms by ``local:|litert|<precision>|<threads>``.
    """
    exported = load_exported()
    reference = read_reference(exported, "export_litert")
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}
    for precision in track(LiteRtRuntime.precisions, "export_litert"):
        path = folder / f"{precision}.tflite"
        row: Row = {
            "precision": precision,
            "file": path.name,
            "sha256": None,
            "bytes": None,
            "status": "failed",
            "reason": None,
            "provider": None,
            "dtypes": None,
            "golden": None,
            **dict.fromkeys((*OF_ANSWERS, "agreement", "images")),
            "latency": [],
        }
        rows.append(row)
        try:
            _convert(path, folder / "fp32.tflite", params.export.calibration_images)
            row |= {"sha256": sha256(path), "bytes": path.stat().st_size}
            test = reference.test.images
            jobs = [Job(reference.golden_images, 1), Job(test, 1)]
            ran = run_apart(LiteRtRuntime().run, path, jobs)
            row |= {"provider": ran.provider, "dtypes": ran.dtypes}
            row |= measurements(ran, [1], reference, len(test))
        except RuntimeFailureError as error:
            row["reason"] = str(error)
            continue
        missed = list(breaches(row, precision, params.validate_))
        for threads in params.profile.threads:
            timed = _latency(path, exported.golden, threads, params.profile)
            if "samples_ms" in timed:
                samples[f"local:|litert|{precision}|{threads}"] = timed.pop("samples_ms")
            row["latency"].append(timed)
            if timed["status"] == "failed":
                missed.append(f"at {number_of_threads(threads)}: {timed['reason']}")
        row |= outcome(", ".join(missed) or None)
    return rows, samples


def _convert(target: Path, float32: Path, calibration_images: int) -> None:
    arguments = ["fp32", str(target)]
    if target != float32:
        if not float32.is_file():
            raise RuntimeFailureError("no fp32 file to quantise")
        arguments = ["int8", str(float32), str(target), str(calibration_images)]
    try:
        run_process([sys.executable, "-m", "stages.litert.converter", *arguments])
    except RuntimeFailureError as error:
        raise RuntimeFailureError(f"not converted: the converter {error}") from None


def _latency(path: Path, golden: Path, threads: int, profile: Profile) -> Row:
    """Time in a fresh process, as on every device; has ``samples_ms`` only if it succeeds."""
    try:
        return run_apart(time_file, path, golden, threads, profile)
    except (DeviceError, RuntimeFailureError) as error:
        return {"threads": threads, **dict.fromkeys(_UNTIMED), **outcome(str(error))}
