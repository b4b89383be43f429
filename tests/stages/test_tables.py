"""Numbers as text, and the parts of tables that all renderers use."""

import pytest

from stages import markdown
from stages.formatting import between, duration, millions, origin, points, significant, times
from stages.tables import NOISY_NOTE, Table, of_records


def test_numbers_as_text():
    numbers = {0.0: "0.00", 0.03125: "0.0312", 4.049: "4.05", 99.96: "100", 1234.4: "1,230"}
    numbers[4.2e-7] = "4.2e−7"
    assert {x: significant(x) for x in numbers} == numbers
    differences = {0.0139: "+1.39", -0.0139: "−1.39", 0.00001: "0.00", -0.00001: "0.00"}
    assert {x: points(x) for x in differences} == differences
    assert (millions(40813184), times(272474 / 78042)) == ("40.8 M", "3.49×")
    assert [duration(x) for x in (0.123, 7300, 3e5)] == ["0.12 s", "2 h", "3.5 days"]
    assert (between(6, 6), between(999, 1000)) == ("6", "999 to 1,000")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("scratch", "trained from scratch"),
        ("one", "trained by ONE"),
        ("kd", "distilled from resnet20 by KD"),
    ],
)
def test_how_a_student_was_trained(method, text):
    summary = {"student": {"method": method}, "teacher": {"network": "resnet20"}}
    assert origin(summary) == text


def test_a_table_of_records_marks_what_was_measured_on_a_noisy_machine():
    rows = [
        (["a"], {"p50_ms": 1.0, "p90_ms": 2.0, "noisy": True}),
        (["b"], {"p50_ms": 1.0, "p90_ms": 2.0, "noisy": False}),
        (["c"], {"p50_ms": None, "p90_ms": None, "noisy": None}),
    ]
    table = of_records("Caption", ["name"], rows, ["p50_ms", "p90_ms"], "Reading.", ["Note."])
    assert table.rows == [["a", "1.00", "2.00 *"], ["b", "1.00", "2.00"], ["c", None, None]]
    assert table.below() == ["Reading.", "Note.", NOISY_NOTE]
    assert of_records("", ["name"], rows[1:], ["p50_ms", "p90_ms"]).below() == []


def test_only_columns_of_figures_are_aligned_to_the_right():
    rows = [["1", "−2.0 %", "fp32", "—"], ["2", None, "int8", "3"], ["4", "no row"]]
    table = Table(["class", "drop", "format", "rest"], rows)
    assert table.numeric() == [False, True, False, True]
    assert Table(["a", "b"], []).numeric() == [False, False]
    assert table.texts("?")[1:] == [["2", "?", "int8", "3"], ["4", "no row", "", ""]]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b *c* `d` [e](f) #g", r"a\|b \*c\* \`d\` \[e\](f) \#g"),
        ("<b>\n& ~", r"&lt;b> &amp; \~"),
        ("int8_u8s8 _emphasis_ a__b", r"int8_u8s8 \_emphasis\_ a\_\_b"),
    ],
)
def test_nothing_in_a_name_is_markup(text, escaped):
    assert markdown.plain(text) == escaped


def test_a_section_in_markdown():
    rows = [["a|b", "1 *"], ["c", None]]
    table = Table(["name", "ms"], rows, "Caption", "Reading.", ["* Noisy."])
    assert markdown.section(table).splitlines() == [
        *("| name | ms |", "| --- | ---: |", r"| a\|b | 1 \* |", "| c | not measured |"),
        *("", "Reading.", "", r"\* Noisy."),
    ]
