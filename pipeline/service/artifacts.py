"""Creates the artifacts of a run in Prefect's pages: progress, tables, a chart, the report."""

import base64
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from pipeline.summary import PAGE, SUMMARY
from stages import report_page
from stages.files import read_json
from stages.markdown import section
from stages.report_page.page_charts import trade_offs
from stages.tables import exports, litert, networks, scores

_EVERY_SECONDS = 5.0
_EPOCH = re.compile(r".+?: epoch (\d+)/(\d+)(?:, step (\d+) of (\d+))?(?:  |$)")
_ITEM = re.compile(r".+?: (\d+) of (\d+)(?:, \d+ s left)?$")


def percent_done(line: str) -> float | None:
    """Parse the progress of a stage, from 0 to 100, from a line; None for other lines."""
    if epoch := _EPOCH.match(line):
        number, epochs, step, steps = (int(group or 0) for group in epoch.groups())
        done = number if not steps else number - 1 + step / steps
        return 100 * done / epochs if epochs else None
    if item := _ITEM.match(line):
        done, total = int(item[1]), int(item[2])
        return 100 * done / total if total else None
    return None


class Progress:
    """A progress bar in Prefect's pages for one stage, updated every 5 s at most.

    ``warn`` receives a message if Prefect rejects the bar; the stage continues without it.
    """

    def __init__(self, stage: str, warn: Callable[[str], None]) -> None:
        # Prefect's keys allow neither capitals nor underscores.
        self._key = f"progress-{re.sub('[^a-z0-9]+', '-', stage.lower())}"
        self._stage, self._warn = stage, warn
        self._artifact: UUID | None = None
        self._next = float("-inf")

    def see(self, line: str) -> None:
        """Update the bar from a line that the stage has written."""
        percent = percent_done(line)
        if percent is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_SECONDS
            self._show(percent, line)

    def finish(self) -> None:
        if self._artifact is not None and self._next < float("inf"):
            self._show(100.0, f"{self._stage}: done")

    def _show(self, percent: float, line: str) -> None:
        try:
            if self._artifact is None:
                created = create_progress_artifact(percent, self._key, line)
                assert isinstance(created, UUID)  # a coroutine only within an event loop
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, percent, line)
        # No problem with the bar is worth losing hours of training.
        except Exception as error:
            self._next = float("inf")
            self._warn(f"{self._stage}: Prefect no longer shows its progress ({error})")


def show_report(root: Path, kept_as: str | None) -> None:
    """Create artifacts for the tables, the chart and the location of the report in ``root``.

    ``kept_as`` is the experiment with the report, if ``root`` is deleted after the run.
    """
    summary = read_json(root / SUMMARY)
    tables = {"networks": networks, "accuracy": scores, "exports": exports, "litert": litert}
    for key, build in tables.items():
        if (table := build(summary)) is not None:
            create_markdown_artifact(section(table), key, table.caption)
    if picture := accuracy_against_latency(summary):
        create_image_artifact(picture, "accuracy-against-latency", "Every export, up and left best")
    if kept_as is not None:
        create_markdown_artifact(
            f"Run `dvc exp pull origin {kept_as} && dvc exp apply {kept_as}` in a clone to get the"
            f" results of this run, including `{PAGE.as_posix()}`.",
            "report",
            "Where the report is",
        )
        return
    page = (root / PAGE).resolve()
    create_link_artifact(
        page.as_uri(),
        page.name,
        "report",
        "The full report, a file on the machine that ran the chain. Browsers do not follow links"
        " from here to files: copy the link to the address bar.",
    )


def accuracy_against_latency(summary: Mapping[str, Any]) -> str | None:
    """Return the report's chart as a data URL of a standalone image; None without latencies."""
    charts = trade_offs(dict(summary))
    if not charts:
        return None
    # Inline the light colours, which come first in the page's style sheet.
    style = Path(report_page.__path__[0], "style.css").read_text(encoding="utf-8")
    colours = dict(reversed(re.findall(r"(--[a-z0-9-]+):\s*(#[0-9a-fA-F]+)", style)))
    svg = re.sub(r"var\((--[a-z0-9-]+)\)", lambda name: colours[name[1]], str(charts[0].svg))
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * float(box[1]):g}"'
        f' height="{2 * float(box[2]):g}" font-family="sans-serif"'
        f' style="background: {colours["--paper"]}"'
    )
    svg = svg.replace("<svg", head, 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
