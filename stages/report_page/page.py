"""Render ``reports/index.html``, a single self-contained file."""

import base64
import io
import itertools
import json
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from ruamel.yaml import YAML

from stages import formatting, tables
from stages.files import without_folders
from stages.formatting import count, millions, percent, significant, times
from stages.params import Params
from stages.report_page import page_charts, page_tables, paper
from stages.report_page.measurements import Measurements, Record

_FOLDER = Path(__file__).parent
_FORMS = ("between", "by_reason", "count", "origin", "percent", "points")


def page_template(path: Path) -> Template:
    """Load a page's template, with the report's style sheet, macros and number formats."""
    environment = Environment(
        loader=FileSystemLoader([path.parent, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(formatting, name) for name in _FORMS}
    numbers = itertools.count()

    def with_own_ids(svg: Markup) -> Markup:
        """Make ids unique, because a page holds several charts."""
        return Markup(re.sub(r'(id="|href="#|url\(#)', rf"\g<1>chart{next(numbers)}-", str(svg)))

    environment.filters["with_own_ids"] = with_own_ids
    environment.globals["style"] = Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(path.name)


def render(measured: Measurements, summary: Record, params: Params) -> str:
    """Render the page as HTML."""
    return page_template(_FOLDER / "page.html").render(
        summary=summary,
        measured=measured,
        tiles=_tiles(summary),
        results=tables,
        tables=page_tables,
        charts=page_charts,
        paper=paper,
        grad_cam=_inline(measured.grad_cam),
        errors=measured.errors and _inline(measured.errors),
        parameters=_yaml(params),
    )


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _tiles(summary: Record) -> list[tuple[str, str, str]]:
    """Return value, unit and meaning of the figures at the top."""
    student, teacher = summary["student"], summary["teacher"]
    accuracy = f"test accuracy; the teacher has {percent(teacher['accuracy'])}"
    tiles = [(f"{100 * student['accuracy']:.2f}", "%", accuracy)]
    for key, name, form in (
        ("parameters", "parameters", count),
        ("macs", "multiply-adds", millions),
    ):
        smaller, larger = sorted((teacher[key], student[key]))
        than = "fewer" if teacher[key] >= student[key] else "more"
        costs = f"{form(student[key])} against {form(teacher[key])}"
        tiles.append((times(larger / smaller), "", f"{than} {name}: {costs}"))
    timed = [
        (export["p50_ms"], export["p90_ms"], name)
        for name, export in summary["exports"].items()
        if export["status"] == "passed" and export["p50_ms"] is not None
    ]
    if timed:
        p50, p90, quickest = min(timed)
        meaning = f"median latency of the fastest export, {quickest}; p90 {significant(p90)} ms"
        tiles.append((significant(p50), "ms", meaning))
    return tiles


def _yaml(params: Params) -> str:
    def hide_folders(section: Record) -> Record:
        return {k: without_folders(v) if isinstance(v, str) else v for k, v in section.items()}

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed as None
    text = io.StringIO()
    yaml.dump(json.loads(params.model_dump_json(by_alias=True), object_hook=hide_folders), text)
    return text.getvalue()
