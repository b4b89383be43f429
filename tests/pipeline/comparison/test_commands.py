"""`ackd compare` and `ackd choose` as a user sees them: text, files, and the page in a browser."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path

import pytest

from tests.chromium import CHROMIUM, opened_page
from tests.pages import programs, type_in
from tests.pipeline.comparison import exps
from tests.pipeline.conftest import invoke

__all__ = ["programs"]

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/how-to-compare.md"
PAPER = {"teacher": 0.74, "scratch": 0.692, "kd": 0.7073, "at": 0.7078, "ackd": 0.7238}
METHODS = ("scratch", "kd", "at", "crd", "eskd", "ackd", "ackd_without_adversary")


@pytest.fixture
def sweep(project: Path) -> dict[str, list[float]]:
    """Seven variants, three seeds each but for one; a board; noise; a failure; no report."""
    results: dict[str, list[float]] = {}
    for place, method in enumerate(METHODS):
        for seed in range(1 if method == "eskd" else 3):
            accuracy = 0.68 + place / 200 + (seed * (place + 3) % 7) / 500
            results.setdefault(method, []).append(accuracy)
            content = exps.summary(
                accuracy,
                paper={"method": method, "accuracies": PAPER, "differs": ["distill.epochs is 20"]},
            )
            content["exports"]["int8"]["size_mb"] = 0.1 + (len(METHODS) - place) % 4 / 100
            ms = 1.0 + place % 4 / 5 + seed / 50
            rows = {"fp32": exps.row(2 * ms, 2.2 * ms), "int8": exps.row(ms, 1.1 * ms)}
            local = content["devices"]["local:"]
            local["exports"] = rows
            if method == "crd":
                rows["int8"]["noisy"] = True
            if method != "scratch":
                board = local | {"cpu": "Board [4]", "exports": {"int8": exps.row(9 * ms, 10 * ms)}}
                content["devices"]["ssh://pi@board"] = board
            of = exps.files(content, seed, method=method)
            exps.commit(project, f"night.{method}.seed{seed}", of)
    stopped = exps.files(exps.summary(0.9)) | {"reports/summary.json": None}
    exps.commit(project, "night.takd.seed0", stopped)
    return results


def test_compare_tells_and_writes_the_same_figures(
    project: Path, sweep: dict[str, list[float]]
) -> None:
    code, output, error = invoke(
        "compare", "night", "--html", "a.html", "--markdown", "a.md", "--csv", "out/a.csv"
    )
    assert (code, error) == (0, "")
    best = max(sweep, key=lambda name: statistics.fmean(sweep[name]))
    mean = statistics.fmean(sweep[best])
    assert f"{best} is the most accurate of 7 variants: {100 * mean:.2f} %" in output
    assert "night.takd.seed0: reports/summary.json is missing" in output
    page, markdown = (project / "a.html").read_text(), (project / "a.md").read_text()
    (line,) = (x for x in markdown.splitlines() if x.startswith(f"| {best} | 1 |"))
    for text in (output, page, line):
        assert f"{100 * mean:.2f} %" in text
    assert markdown.count("\n| --- |") == page.count("<table") - 1  # of words
    with (project / "out/a.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 7 * 2 * 2
    for row in rows:
        expected = statistics.fmean(sweep[row["variant"]])
        assert float(row["accuracy"]) == pytest.approx(expected, rel=1e-5)
        assert row["device"] in {"local:", "ssh://pi@board"}
    (kd,) = (
        r
        for r in rows
        if r["variant"] == "kd" and r["recommended"] == "True" and r["device"] == "local:"
    )
    assert float(kd["p50_ms"]) == pytest.approx(1.22)
    assert kd["over_baseline"] == kd["interval_low"] == ""
    (scratch, *_) = (r for r in rows if r["variant"] == "scratch" and r["device"] != "local:")
    assert scratch["p50_ms"] == scratch["p90_ms"] == ""


def test_choose_names_the_student_or_the_nearest(
    project: Path, sweep: dict[str, list[float]]
) -> None:
    board = ("choose", "night", "--device", "board")
    code, output, _ = invoke(*board, "--max-p90", "14ms", "--max-size", "0.2MB")
    assert code == 0
    *_, best, get, file = output.splitlines()
    # Of those whose p90 there, 10 x (1 + place % 4 / 5 + seed / 50), is at most 14 ms.
    fits = {
        f"night.{name}.seed{seed}": accuracy
        for place, name in enumerate(METHODS)
        for seed, accuracy in enumerate(sweep[name])
        if name != "scratch" and 10 * (1 + place % 4 / 5 + seed / 50) <= 14.0000001
    }
    name = max(fits, key=lambda n: fits[n])
    assert best.startswith(f"best     {name}, int8: {100 * (fits[name] - 0.01):.2f} %")
    assert get == f"get it   dvc exp apply {name}"
    assert file.strip() == "its file is then artifacts/onnx/int8.static.onnx"

    code, output, error = invoke(*board, "--max-p90", "1ms")
    assert (code, error) == (1, "")
    assert "nothing is within the budget; nearest night.eskd.seed0, int8: p90 10.0 ms is" in output
    code, output, _ = invoke("choose", "night", "--device", "desk", "--max-p90", "1.8ms")
    assert code == 0
    assert "left out: 1, an experiment without results, see `ackd compare`" in output


def test_what_litert_runs_is_compared_and_chosen_too(project: Path) -> None:
    for seed in range(2):
        content = exps.summary(0.7 + seed / 100)
        timed = exps.export(0.695 + seed / 100, 0.09) | exps.row(0.4, 0.5)
        of_answers = dict.fromkeys(("drop", "drop_low", "drop_high"), 0.005)
        of_answers |= {"max_relative_error": 0.01, "agreement": 0.99, "speedup": 5.0}
        content["litert"] = {
            "versions": {"ai-edge-litert": "2.3.1"},
            "exports": {"int8": timed | of_answers},
        }
        exps.commit(project, f"lite.kd.seed{seed}", exps.files(content, seed))
    page, table = project / "page.md", project / "table.csv"
    assert invoke("compare", "lite", "--markdown", str(page), "--csv", str(table))[0] == 0
    (line,) = [text for text in table.read_text().splitlines() if "litert_int8" in text]
    assert "0.7," in line
    # Another runtime than the other rows' is what its name says, and no difference of machines.
    assert "a difference in latency" not in page.read_text()

    code, output, _ = invoke("choose", "lite", "--max-p90", "0.6ms")
    assert code == 0
    assert "best     lite.kd.seed1, litert_int8: 70.50 %, 0.0900 MB, p90 0.500 ms" in output
    assert output.splitlines()[-1].strip() == "its file is then artifacts/litert/int8.tflite"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_fits_its_window_and_asks_nobody(
    project: Path, sweep: dict[str, list[float]], tmp_path: Path
) -> None:
    # Dozens of them, whose names are as long as their points are near one another.
    for number in range(17):
        content = exps.summary(0.7 + number * 7 % 17 / 300)
        content["exports"]["int8"]["size_mb"] = 0.1 + number / 500
        rows = content["devices"]["local:"]["exports"]
        rows["int8"] = exps.row(0.8 + number / 20, 1.0 + number / 20)
        name = f"night.a_variant_with_a_long_name_{number}.seed0"
        exps.commit(project, name, exps.files(content, method="kd"))
    assert invoke("compare", "night", "--html", "page.html")[0] == 0
    text = (project / "page.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\((?!#)|@import""", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    with opened_page(tmp_path / "profile") as page:
        page.open((project / "page.html").as_uri())
        for width, phone in ((1280, False), (390, True)):
            dark = phone  # each look once: the report's page, of the same style, is seen in more
            page.look(tmp_path / f"{width}.png", width, dark=dark, phone=phone)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(21, 23, 26)" if dark else "rgb(253, 253, 252)")
        # Nothing of a chart sticks out of the page.
        outside = """[...document.querySelectorAll('figure svg text')].filter(text => {
            const {left, right} = text.getBoundingClientRect();
            return left < 0 || right > innerWidth;
        }).map(text => text.textContent)"""
        assert page.evaluate(outside) == []
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        assert page.complaints == []


def commands() -> list[str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line[4:] for line in lines if line.startswith("    ")]


@pytest.mark.usefixtures("programs")
def test_every_command_of_the_how_to(tmp_path: Path) -> None:
    exps.start_project(tmp_path)
    said = {command: type_in(tmp_path, command) for command in commands()}
    assert "+5.00 points over kd" in said["ackd compare night"]
    assert all((tmp_path / f"compare.{kind}").is_file() for kind in ("html", "md", "csv"))
    chosen = "ackd choose night --max-p90 5ms --max-size 2MB"
    *_, apply = commands()
    assert f"get it   {apply}\n" in said[chosen]
    assert (tmp_path / "artifacts/onnx/fp32.static.onnx").read_text() == "ackd 1"
