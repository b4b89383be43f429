"""Output of `ackd compare` and `ackd choose`: text, files, and the page in a browser."""

import csv
import re
from pathlib import Path
from statistics import fmean

import pytest

from tests.chromium import CHROMIUM, opened_page
from tests.pages import type_in
from tests.pipeline.comparison import exps
from tests.pipeline.conftest import invoke

PAGE = Path(__file__).parents[3] / "docs/how-to-compare.md"


@pytest.fixture
def sweep(project):
    """KD and a dozen other variants with two seeds each; all except KD also measured on a board."""
    results: dict[str, list[float]] = {}
    paper = {"method": "kd", "accuracies": {"kd": 0.7073}, "differs": ["distill.epochs is 20"]}
    for place in range(13):
        name = f"a_variant_with_a_long_name_{place}" if place else "kd"
        for seed in range(2):
            accuracy = 0.68 + place * 7 % 13 / 200 + (seed * (place + 3) % 7) / 500
            results.setdefault(name, []).append(accuracy)
            content = exps.summary(accuracy, paper=paper)
            content["exports"]["int8"]["size_mb"] = 0.1 + place / 500
            ms = 1.0 + place / 20 + seed / 50
            local = content["devices"]["local:"]
            local["exports"] = {"fp32": exps.row(2 * ms, 3 * ms), "int8": exps.row(ms, 1.1 * ms)}
            local["exports"]["int8"]["noisy"] = place == 3
            if place:
                rows = {"int8": exps.row(9 * ms, 10 * ms)}
                content["devices"]["ssh://pi@board"] = local | {"cpu": "Board [4]", "exports": rows}
            exps.commit(project, f"night.{name}.seed{seed}", exps.files(content, seed))
    stopped = exps.files(exps.summary(0.9)) | {"reports/summary.json": None}
    exps.commit(project, "night.takd.seed0", stopped)
    return results


def test_compare_prints_and_writes_the_same_numbers(project, sweep):
    code, output, error = invoke(
        "compare", "night", "--html", "a.html", "--markdown", "a.md", "--csv", "out/a.csv"
    )
    assert (code, error) == (0, "")
    code, _, error = invoke("compare", "night", "--html", str(project))
    assert (code, error.count("is a directory")) == (2, 1)
    best = max(sweep, key=lambda name: fmean(sweep[name]))
    mean = f"{100 * fmean(sweep[best]):.2f} %"
    assert f"{best} is the most accurate of 13 variants: {mean}" in output
    assert "night.takd.seed0: reports/summary.json is missing" in output
    page, markdown = Path("a.html").read_text(), Path("a.md").read_text()
    (line,) = (x for x in markdown.splitlines() if x.startswith(f"| {best} | 1 |"))
    for text in (output, page, line):
        assert mean in text
    assert markdown.count("\n| --- |") == page.count("<table") - 1  # of words
    with Path("out/a.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 13 * 2 * 2
    for row in rows:
        assert float(row["accuracy"]) == pytest.approx(fmean(sweep[row["variant"]]), rel=1e-5)
        assert row["device"] in {"local:", "ssh://pi@board"}
    here, board = (r for r in rows if r["variant"] == "kd" and r["recommended"] == "True")
    assert float(here["p50_ms"]) == pytest.approx(1.01)
    assert here["over_baseline"] == here["interval_low"] == ""
    assert board["p50_ms"] == board["p90_ms"] == ""


def test_litert_exports_are_compared_and_chosen(project):
    for seed in range(2):
        content = exps.summary(0.7 + seed / 100)
        timed = exps.export(0.695 + seed / 100, 0.09) | exps.row(0.4, 0.5)
        content["litert"] = {"exports": {"int8": timed}}
        exps.commit(project, f"lite.kd.seed{seed}", exps.files(content, seed))
    assert invoke("compare", "lite", "--csv", "table.csv")[0] == 0
    (line,) = [text for text in Path("table.csv").read_text().splitlines() if "litert_int8" in text]
    assert "0.7," in line

    code, output, _ = invoke("choose", "lite", "--max-p90", "0.6ms")
    assert code == 0
    assert "best     lite.kd.seed1, litert_int8: 70.50 %, 0.0900 MB, p90 0.500 ms" in output
    assert output.splitlines()[-1].strip() == "the file is then artifacts/litert/int8.tflite"
    code, output, error = invoke("choose", "lite", "--max-p90", "0.1ms", "--device", "desk")
    assert (code, error) == (1, "")
    nearest = "nearest lite.kd.seed1, litert_int8: p90 0.500 ms"
    assert f"nothing is within the budget; {nearest}" in output


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.usefixtures("sweep")
def test_the_page_fits_its_window_and_loads_nothing(project, tmp_path):
    assert invoke("compare", "night", "--html", "page.html")[0] == 0
    text = (project / "page.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\((?!#)|@import""", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    with opened_page() as page:
        page.open((project / "page.html").as_uri())
        for width, phone in ((1280, False), (390, True)):
            dark = phone  # one look each: the report has the same style and is tested in more
            page.look(tmp_path / f"{width}.png", width, dark=dark, phone=phone)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(21, 23, 26)" if dark else "rgb(253, 253, 252)")
        # No chart exceeds the page.
        outside = """[...document.querySelectorAll('figure svg text')].filter(text => {
            const {left, right} = text.getBoundingClientRect();
            return left < 0 || right > innerWidth;
        }).map(text => text.textContent)"""
        assert page.evaluate(outside) == []
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        assert page.complaints == []


@pytest.mark.usefixtures("programs")
def test_every_command_of_the_how_to(tmp_path):
    exps.start_project(tmp_path)
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    commands = [line[4:] for line in lines if line.startswith("    ")]
    printed = {command: type_in(tmp_path, command) for command in commands}
    assert "+5.00 points over kd" in printed["ackd compare night"]
    assert all((tmp_path / f"compare.{kind}").is_file() for kind in ("html", "md", "csv"))
    chosen = printed["ackd choose night --max-p90 5ms --max-size 2MB"]
    assert f"get it   {commands[-1]}\n" in chosen
    assert (tmp_path / "artifacts/onnx/fp32.static.onnx").read_text() == "ackd 1"
