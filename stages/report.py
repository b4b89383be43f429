"""Stage ``report``: write a page and a summary of everything that was measured."""

from pathlib import Path

from stages.entry import run_stage
from stages.files import new_file, write_json
from stages.params import Params
from stages.report_page.measurements import Measurements
from stages.report_page.page import render
from stages.report_page.summary import summarise

PAGE = Path("reports/index.html")
SUMMARY = Path("reports/summary.json")


def main(params: Params) -> None:
    """Write ``reports/summary.json`` and ``reports/index.html``."""
    measured = Measurements()
    summary = summarise(measured, params)
    page = render(measured, summary, params)
    write_json(SUMMARY, summary)
    with new_file(PAGE) as partial:
        partial.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
