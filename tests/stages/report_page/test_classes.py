"""Classes on the page: gains, and those that have no images."""

from __future__ import annotations

import re

import pytest

from stages.report_page.tables import attention
from tests.stages import chain_files
from tests.stages.html_page import PAGE, change, made


def test_classes_without_test_images_are_left_out():
    classes = [
        {"class": "a", "images": 0, "attention/x": None, "attention/y": None},
        {"class": "b", "images": 2, "attention/x": 0.4, "attention/y": 0.6},
        {"class": "c", "images": 2, "attention/x": 0.6, "attention/y": 0.4},
    ]
    assert [row[0] for row in attention(classes).rows] == ["c", "b"]


def test_the_student_is_compared_with_the_teacher_class_by_class(chain):
    _, page = made()
    (table,) = page.tables["classes"]
    assert table[1] == ["red", "90", "99.00 %", "90.00 %", "−9.00"]
    assert table[-1] == ["a <b> & $c$", "90", "99.00 %", "96.00 %", "−3.00"]
    assert "analyze.baseline" in page.text["classes"]


@pytest.mark.parametrize("paired", [True, False])
def test_gains_over_a_baseline_show_the_largest_and_the_smallest(chain, paired):
    def against(content):
        content["baseline"] = {"path": "kd.csv", "paired": paired}
        content["baseline"] |= {"gain": 0.0123, "low": -0.002, "high": 0.031}

    change("reports/analysis.json", against)
    chain_files.write_class_figures(100, gains=True)
    summary, page = made()
    assert summary["baseline"]["gain"] == 0.0123
    reading = page.text["classes"]
    assert "Against kd.csv the student gains +1.23 points in the mean over the" in reading
    assert f"interval −0.20 to +3.10; {'paired on' if paired else 'not paired'}" in reading
    html = PAGE.read_text()
    (label,) = re.findall(r'aria-label="(Gain over kd.csv[^"]+)"', html)
    assert "class 99 +5.00 (+3.00 to +7.00)" in label
    assert "class 0 −5.00 (−7.00 to −3.00)" in label
    assert "class 50" not in label
    assert label.count("class ") == 20
