"""What ``export_litert`` does for each precision: make the file, judge it, time it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from stages.devices.runner import outcome
from stages.files import sha256
from stages.formatting import threads as number_of_threads
from stages.progress import track
from stages.runtimes.base import Job, RuntimeFailureError
from stages.runtimes.exported import load_exported
from stages.runtimes.litert_runtime import LiteRtRuntime
from stages.runtimes.parity import OF_ANSWERS, breaches, figures, read_reference
from stages.runtimes.process import run_process
from stages.sections.export import Profile, Validate

Row = dict[str, Any]

_UNTIMED = (
    *("init_ms", "first_ms", "n", "min_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "cv"),
    *("load_before", "load_after", "temperature_before", "temperature_after", "noisy", "golden"),
)


class Exporter:
    """The files of one student.

    Args:
        folder: where to write them.
        calibration_images: training images that int8 ranges are calibrated on.
        validate: what a file must show.
        profile: how it is timed; on this machine, whatever its devices are.

    Attributes:
        samples: times in ms by ``local:|litert|<precision>|<threads>``.
    """

    def __init__(
        self, folder: Path, calibration_images: int, validate: Validate, profile: Profile
    ) -> None:
        self.folder = folder
        self.calibration_images = calibration_images
        self.validate = validate
        self.profile = profile
        self.samples: dict[str, list[float]] = {}
        self._runtime = LiteRtRuntime()
        self._exported = load_exported()
        self._reference = read_reference(self._exported, "export_litert")

    def export(self) -> list[Row]:
        """A row of ``reports/litert.json`` for each precision; one that failed has the reason."""
        precisions = self._runtime.precisions
        return [self._row(precision) for precision in track(precisions, "export_litert")]

    def _row(self, precision: str) -> Row:
        path = self._path(precision)
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
        try:
            self._convert(precision)
            row |= {"sha256": sha256(path), "bytes": path.stat().st_size}
            reference = self._reference
            test = reference.test.images
            execution = self._runtime.run(path, [Job(reference.golden_images, 1), Job(test, 1)])
        except RuntimeFailureError as error:
            return row | {"reason": str(error)}
        row |= {"provider": execution.provider, "dtypes": execution.dtypes}
        row |= figures(execution, [1], reference, len(reference.test))
        row["latency"] = [self._latency(precision, threads) for threads in self.profile.threads]
        missed = list(breaches(row, precision, self.validate))
        missed += [
            f"at {number_of_threads(timed['threads'])}: {timed['reason']}"
            for timed in row["latency"]
            if timed["status"] == "failed"
        ]
        return row | outcome(", ".join(missed) or None)

    def _path(self, precision: str) -> Path:
        return self.folder / f"{precision}.tflite"

    def _convert(self, precision: str) -> None:
        target, float32 = str(self._path(precision)), self._path("fp32")
        arguments = ["fp32", target]
        if precision == "int8":
            if not float32.is_file():
                raise RuntimeFailureError("there is no fp32 file to quantise")
            arguments = ["int8", str(float32), target, str(self.calibration_images)]
        try:
            run_process([sys.executable, "-m", "stages.litert.converter", *arguments])
        except RuntimeFailureError as error:
            raise RuntimeFailureError(f"not converted: the converter {error}") from None

    def _latency(self, precision: str, threads: int) -> Row:
        """In a fresh process, as on every device."""
        command = [sys.executable, "-m", "stages.litert.timing", str(self._path(precision))]
        command += [str(self._exported.golden), precision, str(threads)]
        try:
            printed = run_process([*command, self.profile.model_dump_json()])
        except RuntimeFailureError as error:
            empty = dict.fromkeys(_UNTIMED)
            return {"threads": threads, **empty, **outcome(str(error))}
        timed: Row = json.loads(printed.splitlines()[-1])
        self.samples[f"local:|litert|{precision}|{threads}"] = timed.pop("samples_ms")
        return timed
