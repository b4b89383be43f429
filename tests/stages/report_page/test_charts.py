import itertools
import re

import numpy as np
import pytest

from stages.analysis.intervals import Gain
from stages.report_page import charts
from tests.stages.html_page import PAGE, change, made


def test_a_reliability_diagram_is_drawn_at_its_values():
    bins = [
        {"images": images, "confidence": confidence, "accuracy": accuracy}
        for images, confidence, accuracy in ((5, 0.2, 0.6), (3, 0.4, 0.4), (2, 0.8, 0.0))
    ]
    svg = charts.reliability("one", {"a": bins}, "").svg
    mark = r'<use href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--series-1'
    x, y = np.array(re.findall(mark, svg), dtype=float).T
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(1 / 3, abs=1e-3)
    assert (y[1] - y[0]) / (y[2] - y[0]) == pytest.approx(1 / 3, abs=1e-3)


def test_a_gain_is_drawn_with_its_interval_the_first_at_the_top():
    rows = [("best", Gain(0.1, 0.05, 0.2)), ("none", Gain(0, -0.1, 0.1))]
    rows.append(("worst", Gain(-0.1, -0.2, -0.05)))
    svg = charts.differences("three", rows, "", "").svg
    (best, worst) = (points_of(svg, n) for n in (1, 2))
    assert best[0, 1] == best[1, 1] < worst[0, 1]
    scale = (best[1, 0] - best[0, 0]) / 15
    assert (worst[1, 0] - worst[0, 0]) / scale == pytest.approx(15, rel=1e-3)
    assert (best[0, 0] - worst[0, 0]) / scale == pytest.approx(25, rel=1e-3)


def points_of(svg: str, series: int) -> np.ndarray:
    """Return the vertices of a series' line in the drawing's coordinates."""
    path = re.search(rf'<path d="([^"]+)"[^>]*stroke: var\(--series-{series}\)', svg, re.S)
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1]), dtype=float)


def test_a_curve_is_drawn_at_its_values():
    chart = charts.lines("a curve", "loss", {"a": ([1, 2, 3], [0.0, 4.0, 1.0])})
    x, y = points_of(chart.svg, 1).T
    np.testing.assert_allclose(np.diff(x)[1:], np.diff(x)[0], rtol=1e-4)
    np.testing.assert_allclose((y[0] - y) / (y[0] - y[1]), [0, 1, 0.25], atol=1e-4)
    assert chart.legend == [("a", "var(--series-1)", False)]
    # Dashes distinguish more series than there are colours.
    many = {str(n): ([1, 2], [n, n]) for n in range(8)}
    legend = charts.lines("many", "y", many).legend
    assert len({(colour, dashed) for _, colour, dashed in legend}) == 8


def test_a_distribution_shows_every_quantile_and_the_extremes():
    times = np.random.default_rng(0).lognormal(size=5000)
    chart = charts.distributions("1 thread", {"a": list(times)})
    x, y = points_of(chart.svg, 1).T
    share = (y[0] - y) / (y[0] - y[-1])
    # x is logarithmic: scaled to the known minimum and maximum, it must match the median.
    scale = np.log(times.max() / times.min()) / (x[-1] - x[0])
    median = times.min() * np.exp((np.interp(0.5, share, x) - x[0]) * scale)
    assert median == pytest.approx(np.median(times), rel=0.01)


@pytest.mark.parametrize(
    "latencies",
    [[1.0, 1.0, 1.0, 1.0], [0.171, 0.203, 0.249, 0.407]],
    ids=["in one place", "side by side, where two could read as one word"],
)
def test_labels_do_not_overlap(latencies):
    names = ("int8_u8s8", "fp32", "fp16", "int8_s8s8")
    exports = [
        charts.Point(name, n, p50, p50, 0.9, False)
        for n, (name, p50) in enumerate(zip(names, latencies, strict=True))
    ]
    svg = charts.accuracy_against_latency("four", exports, 0.9, "1 thread").svg
    labels = rf"""<text[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>({"|".join(names)})</text>"""
    places = sorted((float(y), float(x), name) for x, y, name in re.findall(labels, svg))
    assert len(places) == 4
    for (y, x, name), (below, after, _) in itertools.pairwise(places):
        assert below - y > 10 or after - x > 6 * len(name) + 5


def test_a_precision_has_one_colour_in_every_chart(chain):
    def without_fp32(content):
        content["results"] = [r for r in content["results"] if r["precision"] != "fp32"]

    change("reports/latency.json", without_fp32)
    change("artifacts/latency/samples.json", **{"local:|onnxruntime|fp32|1": []})
    made(drawn=True)
    scatter, *_, one, _two = re.findall(r"<svg.*?</svg>", PAGE.read_text(), re.S)
    assert "--series-1" not in scatter
    assert "--series-1" not in one
    for drawing in (scatter, one):
        assert {f"--series-{n}" for n in (2, 3, 4)} <= set(re.findall(r"--series-\d", drawing))
