"""Parses the report's page like a browser."""

import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from stages import report
from stages.formatting import by_reason
from stages.params import Params

PAGE, SUMMARY = Path("reports/index.html"), Path("reports/summary.json")
_EMPTY = '<svg viewBox="0 0 1 1"></svg>'
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """A parsed page: texts by section, tables as lists, and all references."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.section = ""
        self.order: list[str] = []
        self.text: dict[str, str] = {"": ""}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.ids: list[str] = []
        self.references: list[str] = []
        self.images: list[str] = []
        self.style = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attributes["id"]
            self.order.append(self.section)
            self.text[self.section] = ""
        elif tag == "table":
            self.tables.setdefault(self.section, []).append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in {"td", "th"}:
            self.tables[self.section][-1][-1].append("")
        elif tag == "img":
            self.images.append(attributes["src"])
            assert attributes["alt"]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            if name in attributes:
                self.references.append(attributes[name])
        values = " ".join(filter(None, attributes.values()))
        self.references += re.findall(r"url\(([^)]*)\)", values)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
            return
        self.text[self.section] += data
        if {"td", "th"} & set(self.open):
            self.tables[self.section][-1][-1][-1] += data


def made(params: Params | None = None, *, drawn: bool = False) -> tuple[dict, Page]:
    """Return summary and page; without ``drawn``, all charts are empty, which is fast."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(Figure, "savefig", lambda _, buffer, **__: buffer.write(_EMPTY))
        report.main(params or Params())
    return json.loads(SUMMARY.read_text()), Page(PAGE.read_text(encoding="utf-8"))


def change(path: str, edit: Callable[[Any], object] = id, **values: Any) -> None:
    """Edit a JSON file of the chain, or set ``values`` in it."""
    content = json.loads(Path(path).read_text())
    content |= values
    edit(content)
    Path(path).write_text(json.dumps(content))


def change_rows(
    path: str, matching: Mapping[str, Any], edit: Callable[[Any], object] = id, **values: Any
) -> None:
    """Set values in those rows of ``results`` that match all of ``matching``."""

    def change_all(content: Any) -> None:
        for row in content["results"]:
            if all(row[key] == value for key, value in matching.items()):
                row.update(values)
                edit(row)

    change(path, change_all)


def reasons(summary: dict[str, Any]) -> dict[str, str]:
    """Return the reasons for missing measurements, by what and device."""
    found = by_reason(summary["skipped"])
    return {what: reason for reason, missing in found.items() for what in missing}
