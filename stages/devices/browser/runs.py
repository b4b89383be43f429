"""Track measurements in progress, and report finished ones."""

import json
import queue
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.devices.browser import measurement, web_runtime
from stages.devices.browser.measurement import Browser, Failed, Measured
from stages.devices.proof import DeviceError
from stages.devices.runner import load_golden
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

#: How many pages may measure at once; one more replaces the oldest.
_MAX_RUNS = 8


@dataclass(frozen=True)
class Report:
    """The results of one browser."""

    browser: Browser
    rows: list[dict[str, Any]]
    """As in ``reports/latency.json``, with ``samples_ms`` and without ``device``; ``planned`` at
    first, or ``skipped`` with the reason."""

    @property
    def name(self) -> str:
        """A name by what the browser reports, such as ``pixel-8-chrome-156``."""
        return measurement.slug(self.browser)

    @property
    def description(self) -> dict[str, Any]:
        """The device's description; None for what browsers do not report."""
        browser = self.browser
        return {
            "system": browser.platform or measurement.system(browser),
            "machine": browser.model,
            "cpu": None,
            "cores": browser.cores,
            "governor": None,
            "python": None,
            "runtime": f"{measurement.RUNTIME} {web_runtime.VERSION}",
            "browser": browser.model_dump(exclude={"platform", "model", "cores"}),
        }


class Runs:
    """The runs of all pages that measure a bundle, whose damaged files raise InputError."""

    def __init__(self, exported: Exported, profile: Profile) -> None:
        self.exported, self.description = exported, exported.description
        self.profile = profile
        try:
            self.images, self.reference = load_golden(exported.golden)
        except DeviceError as error:
            raise InputError(str(error)) from None
        self.models = [exported.file(precision, "static") for precision in exported.precisions]
        self.labels = _labels(exported.folder / "labels.json", self.description["num_classes"])
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._runs: dict[str, Report] = {}

    @property
    def about(self) -> dict[str, Any]:
        """What a page needs before it measures."""
        return {
            "network": self.description["network"],
            "labels": self.labels,
            "image_size": self.description["image_size"],
            "resize": self.description["resize"],
            "fit": self.description["fit"],
            "input": self.description["input"],
            "output": self.description["output"],
            "golden_images": len(self.images),
            "models": {path.name.split(".")[0]: path.name for path in self.models},
            "runtime": web_runtime.VERSION,
            "profile": self.profile.model_dump(exclude={"threads"}),
        }

    @property
    def begun(self) -> bool:
        """Whether a page has begun to measure."""
        return bool(self._runs)

    @property
    def max_message(self) -> int:
        """The most bytes of a message: logits in base64, samples in decimal."""
        return self.reference.nbytes * 4 // 3 + self.profile.max_runs * 24 + 16 * 1024

    def begin(self, browser: Browser) -> dict[str, Any]:
        """Start a run, and return its id and its numbered rows, planned or skipped."""
        run = Report(browser, measurement.plan(self.exported, self.profile, browser))
        while len(self._runs) >= _MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        name = secrets.token_urlsafe(12)
        self._runs[name] = run
        self._report_if_whole(run)
        tasks = [{"number": number, **row} for number, row in enumerate(run.rows)]
        return {"run": name, "tasks": tasks}

    def take(self, name: str, number: int, sent: Measured | Failed) -> dict[str, Any]:
        """Judge one measurement; the last one of a run completes its report.

        A page that missed the answer may send again and gets the same answer.

        Raises KeyError for an unknown run or number, and WrongMessageError if ``sent`` does not
        answer what was planned.
        """
        run = self._runs[name]
        if not 0 <= number < len(run.rows):
            raise KeyError(number)
        row = run.rows[number]
        if row["status"] == "planned":
            row = measurement.judge(row, sent, self.reference, self.profile.max_runs)
            run.rows[number] = row
            self._report_if_whole(run)
        return {"row": {key: row[key] for key in row if key != "samples_ms"}}

    def _report_if_whole(self, run: Report) -> None:
        if all(row["status"] != "planned" for row in run.rows):
            self.reports.put(run)


def _labels(path: Path, count: int) -> list[str]:
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        labels = None
    if not isinstance(labels, list) or len(labels) != count:
        raise InputError(f"{path}: expected {count} class names; package the bundle again")
    return [str(label) for label in labels]
