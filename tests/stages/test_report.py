"""The summary and the page of finished and of incomplete chains."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from stages import report
from stages.files import sha256
from stages.params import Params
from stages.report_page.measurements import Measurements
from stages.report_page.page_charts import latency_charts
from tests.chromium import CHROMIUM, opened_page
from tests.stages import chain_files
from tests.stages.html_page import PAGE, SUMMARY, Page, change, change_rows, made, reasons

VALIDATION, LATENCY = "reports/validation.json", "reports/latency.json"
MODEL, SAMPLES = "artifacts/onnx/model.json", "artifacts/latency/samples.json"


@pytest.fixture(scope="module")
def html(reported):
    return (reported / PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def summary(reported):
    return json.loads((reported / SUMMARY).read_text(encoding="utf-8"))


def test_the_summary_is_as_docs_files_says(summary, reported):
    data = {"source": "digits", "classes": 4, "image_size": 16}
    assert summary["data"] == data | {"train": 24, "val": 24, "test": 24}
    teacher = {"network": "resnet20", "accuracy": 0.9889, "parameters": 272474, "macs": 40813184}
    assert summary["teacher"] == teacher | {"size_mb": pytest.approx(1.089896), "weights": None}
    assert summary["proxy"] == {"method": "teacher", **summary["teacher"]}
    student = summary["student"]
    assert (student["accuracy"], student["method"], student["parameters"]) == (0.975, "ackd", 78042)
    assert summary["drop_from_teacher"] == pytest.approx(0.0139)
    assert summary["calibration_error"] == {"teacher": 0.01, "proxy": 0.01, "student": 0.02}
    samples = json.loads((reported / SAMPLES).read_text())
    times = samples["local:|onnxruntime|int8_u8s8|1"]
    fp32 = np.median(samples["local:|onnxruntime|fp32|1"])
    assert list(summary["exports"]) == chain_files.PRECISIONS
    p50, p90 = np.quantile(times, (0.5, 0.9))
    export = {
        "size_mb": (reported / "artifacts/onnx/int8_u8s8.static.onnx").stat().st_size / 1e6,
        "accuracy": 0.9722,
        "drop": 0.0028,
        "drop_low": -0.0032,
        "drop_high": 0.0108,
        "max_relative_error": 4e-7,  # the worse of the two shapes
        "agreement": 0.9972,
        "calibration_error": 0.0148,
        "p50_ms": p50,
        "p90_ms": p90,
        "threads": 1,
        "speedup": fp32 / p50,
    }
    wanted = {name: pytest.approx(value) for name, value in export.items()}
    wanted |= {"status": "passed", "reason": None, "noisy": False, "in_float": []}
    assert summary["exports"]["int8_u8s8"] == wanted | {"dominated_by": []}
    assert summary["exports"]["fp32"]["speedup"] == 1
    assert summary["litert"] is None
    assert reasons(summary)["LiteRT"] == "litert.enabled is false"
    assert reasons(summary)["tensorrt fp32"] == "no NVIDIA GPU"
    assert list(summary["devices"]) == ["local:"]
    for name, row in summary["devices"]["local:"]["exports"].items():
        assert row["p50_ms"] == summary["exports"][name]["p50_ms"]
    assert reasons(summary)["p99 of fp16 at 1 thread"] == "400 samples, fewer than 500"


def test_the_page_has_its_sections_in_order(page):
    assert page.order == [
        *("results", "trade-off", "curves", "learners", "similarity", "calibration", "classes"),
        *("errors", "grad-cam", "latency", "prune", "data", "environment", "parameters"),
        "not-measured",
    ]
    networks, scores, exports, validation = page.tables["results"]  # none of LiteRT
    assert "trade-off" not in page.tables  # has a table only for several devices
    assert networks[1] == ["teacher", "resnet20", "98.89 %", "272,474", "40.8 M", "1.09"]
    assert networks[2] == ["student", "resnet8", "97.50 %", "78,042", "12.5 M", "0.312"]
    assert networks[3][2:] == ["+1.39 points", "3.49×", "3.26×", "3.49×"]
    assert scores[1:] == [
        ["top‑1 accuracy", "98.89 % (97.2 to 99.6)", "97.50 % (95.3 to 98.7)"],
        ["balanced accuracy", "98.89 % (97.2 to 99.6)", "97.00 % (95.3 to 98.7)"],
        ["macro F1", "98.89 % (97.2 to 99.6)", "97.00 % (95.3 to 98.7)"],
    ]
    assert exports[3][:3] == ["int8_u8s8", "passed", "recommended"]
    assert exports[3][3:5] == ["97.22 %", "+0.28 (−0.32 to +1.08)"]
    assert exports[3][-2:] == ["4.0e−7", "99.72 %"]
    assert len(validation) == 1 + 8 + 1
    assert validation[1][:7] == [
        *("onnxruntime 1.31.1", "fp32", "dynamic", "passed", "CPU", "float32", "4.0e−7")
    ]
    assert validation[-1] == ["tensorrt", "fp32", "static", "skipped", "no NVIDIA GPU"]
    # The proxy is the teacher.
    assert page.tables["similarity"][0][1:] == [["teacher, student", "0.8123", "0.0912", "+1.39"]]
    calibrated = [["teacher", "1.00 %"], ["student", "2.00 %"], ["fp32", "1.20 %"]]
    assert page.tables["calibration"][0][1:4] == calibrated
    training = page.tables["curves"][0]
    assert training[2][0] == "student"
    assert training[2][1].startswith("the last epoch, 15, is kept: 97.50 % on")
    assert "cpu, bf16, processes: 2, threads of each: 1" in training[3][1]
    assert ["− learner D2B2", "73,258", ""] in page.tables["prune"][0]
    assert page.tables["errors"][0][1] == ["red", "a <b> & $c$", "3", "3.33 %"]
    assert ["D3B1 and D2B2", "96.94 %", "0.871"] in page.tables["learners"][1]
    assert "min_accuracy: null" in page.text["parameters"]
    assert "discriminator_learning_rate: 0.001" in page.text["parameters"]
    data = page.tables["data"][0]
    assert ["test images also in train", "2, by identical pixels"] in data
    assert ["note", "not used: extra"] in data
    assert ["damaged images, skipped", "cat/1.png (not an image)"] in data
    assert "a <b> & $c$" in data[-1][1]


def test_the_page_needs_no_network_and_no_other_file(page, html, reported):
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"@import|url\(", page.style)
    assert all(r.startswith(("data:", "#")) for r in page.references), page.references
    assert [image.partition(",")[0] for image in page.images] == ["data:image/png;base64"] * 2
    assert not {"script", "iframe", "object", "embed"} & set(re.findall(r"<(\w+)", html))
    assert str(reported) not in html
    assert len(page.ids) == len(set(page.ids))
    inside = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert set() < inside <= set(page.ids)


def test_every_chart_has_the_pages_colours_and_how_to_read_it(html):
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) == 1 + 3 + 4 + 1 + 2
    for drawing in drawings:
        assert not re.search(r"(?:fill|stroke): ?#|rgb\(|font-family|font:", drawing)
    for figure in re.findall(r"<figure>.*?</figure>", html, re.S):
        title = re.search(r"<h3>(.*?)</h3>", figure)[1]
        # All charts of latency share one sentence.
        assert re.search(r"<figcaption>([^<]+\.)</figcaption>", figure) or "thread" in title, title
        assert len(re.search(r'aria-label="([^"]+)"', figure)[1]) > 20


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_lines_have_enough_contrast(scheme):
    """WCAG 2.2 requires 4.5 for text and 3 for graphics."""
    style = (Path(report.__file__).parent / "report_page/style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    declared = blocks[["light", "dark", "print"].index(scheme)]
    colours = {
        name: np.array([int((d if len(d) == 6 else d * 2)[i : i + 2], 16) for i in (0, 2, 4)])
        for name, d in re.findall(r"(--[\w-]+): #(\w+);", declared)
    }

    def luminance(colour):
        c = colour / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    paper, ink = colours["--paper"], colours["--ink"]
    pairs = [(ink, paper, 4.5), (colours["--muted"], paper, 4.5)]
    pairs += [(c, paper, 3) for name, c in colours.items() if name.startswith("--series")]
    for one, other, least in pairs:
        low, high = sorted((luminance(one), luminance(other)))
        assert high / low >= least, (one, other)


def test_equal_measurements_give_equal_bytes(chain, reported):
    made(drawn=True)
    assert sha256(PAGE) == sha256(reported / PAGE)
    assert sha256(SUMMARY) == sha256(reported / SUMMARY)


def test_what_failed_or_was_not_exported_shows_with_its_reasons(chain):
    # Accuracies come from the validation on the whole test split.
    change_rows(VALIDATION, {"shape": "static"}, accuracy=0.1, drop=0.9, agreement=0.1, images=10)
    failed = {"status": "failed", "reason": "wrong <logits>", "golden": None}
    unknown = dict.fromkeys(("accuracy", "drop", "agreement"))
    change_rows(VALIDATION, {"precision": "fp16"}, **failed, **unknown)

    def crash(row):
        named = {"device", "runtime", "precision", "file", "threads"}
        row.update(dict.fromkeys(set(row) - named), status="failed", reason="it crashed")

    def fail(model):
        del model["files"]["int8_s8s8"]
        model["failed"]["int8_s8s8"] = "not exported (ValueError: no)"

    def forget(content):
        content["results"] = [r for r in content["results"] if r["precision"] != "int8_s8s8"]

    change_rows(LATENCY, {"precision": "int8_u8s8"}, crash)
    change(SAMPLES, **{"local:|onnxruntime|int8_u8s8|1": []})
    change(MODEL, fail)
    change(VALIDATION, forget)
    change(LATENCY, forget)
    summary, page = made()
    fp32, fp16, u8s8, s8s8 = (summary["exports"][name] for name in chain_files.PRECISIONS)
    assert fp32["accuracy"] == pytest.approx(0.975)
    assert (fp16["status"], fp16["reason"], fp16["accuracy"]) == ("failed", "wrong <logits>", None)
    assert (u8s8["status"], u8s8["p50_ms"]) == ("passed", None)
    assert (s8s8["status"], s8s8["reason"]) == ("failed", "not exported (ValueError: no)")
    assert (s8s8["size_mb"], s8s8["accuracy"], s8s8["dominated_by"]) == (None, None, [])
    rows = {row[0]: row[1:5] for row in page.tables["results"][2]}
    for name in ("fp16", "int8_s8s8"):
        assert rows[name] == ["failed", "", *["not measured"] * 2]
    text = page.text["results"]
    assert "fp16: wrong <logits>." in text
    assert "int8_s8s8: not exported (ValueError: no)." in text
    found = {reason: what for what, reason in page.tables["not-measured"][0]}
    assert "latency of int8_u8s8 at 1 thread" in found["it crashed"]
    assert "onnxruntime fp16" in found["wrong <logits>"]


def test_a_timed_model_that_missed_parity_is_marked_and_in_no_chart(chain):
    change_rows(LATENCY, {"precision": "fp16", "threads": 1}, status="failed", reason="cosine 0.5")
    summary, page = made()
    rows = {row[0]: row[1] for row in page.tables["latency"][0]}
    assert (rows["fp16, 1"], rows["fp32, 1"]) == ("failed", "passed")
    assert "fp16, 1: cosine 0.5." in page.text["latency"]
    assert "cosine 0.5" not in str(summary["skipped"])
    legend = [name for name, *_ in latency_charts(Measurements())[0].legend]
    assert "fp32" in legend
    assert "fp16" not in legend


def test_one_export_is_recommended_and_what_it_beats_in_everything_is_not(chain):
    change_rows(VALIDATION, {"precision": "int8_s8s8"}, accuracy=0.97, drop=0.005)
    small = Path("artifacts/onnx/int8_u8s8.static.onnx").stat().st_size
    change(MODEL, lambda m: m["files"]["int8_s8s8"]["static"].update(bytes=small + 1))
    summary, page = made(Params.model_validate({"gate": {"max_export_drop": 0.02}}))
    assert summary["recommended"]["precision"] == "int8_u8s8"
    assert summary["exports"]["int8_s8s8"]["dominated_by"][0] == "int8_u8s8"
    verdicts = {row[0]: row[2] for row in page.tables["results"][2][1:]}
    assert verdicts["int8_u8s8"] == "recommended"
    assert verdicts["int8_s8s8"].startswith("dominated by int8_u8s8")
    text = page.text["results"]
    assert f"on this device: int8_u8s8, {summary['recommended']['reason']}." in text
    assert "int8: calibrated on 256 training images, by minmax." in text
    assert "in float" not in text
    chosen = {"ranges": "percentile", "in_float": ["first Conv", "Gemm"]}
    change(MODEL, lambda m: m["int8"].update(int8_u8s8=chosen))
    text = made()[1].text["results"]
    assert "int8: calibrated on 256 training images, int8_u8s8 by percentile." in text
    assert "int8_u8s8 keeps sensitive layers in float: first Conv, Gemm." in text
    # Without a latency with one thread there is no recommendation.
    change_rows(LATENCY, {"threads": 1}, threads=4)
    summary, page = made()
    assert summary["recommended"] is None
    assert {export["speedup"] for export in summary["exports"].values()} == {None}
    assert "No export is recommended" in page.text["results"]
    reason = "local: was measured with other numbers (profile.threads, or the device's URL)"
    assert reasons(summary)["latency at one thread"] == reason
    change(LATENCY, results=[])
    assert "Not measured: no export has both" in made()[1].text["trade-off"]


def test_what_comes_from_elsewhere_is_escaped_and_shows_no_folders(chain):
    change("reports/device.json", cpu="<script>alert(1)</script>", memory_gb=None)
    paths = {"data": {"source": "imagefolder:/home/somebody/flowers"}}
    paths["teacher"] = {"weights": "~somebody/teacher.pth", "train": "none"}
    paths["analyze"] = {"baseline": "/home/somebody/classes.csv"}
    _, page = made(Params.model_validate(paths))
    assert not re.search("somebody|<script>", PAGE.read_text())
    assert "source: imagefolder:.../flowers" in page.text["parameters"]
    environment = page.tables["environment"][0]
    assert ["CPU", "<script>alert(1)</script>"] in environment
    assert ["memory", "not measured"] in environment


def test_weights_of_others_are_named_with_their_licence(chain):
    origin = {"sha256": 64 * "0", "notes": []}
    free = origin | {"source": "timm:small.in1k", "licence": "apache-2.0"}
    bound = origin | {"source": "timm:big.in1k", "licence": "cc-by-nc-4.0"}
    change("reports/teacher/metrics.json", weights=bound)
    change("reports/distill/metrics.json", weights=free)
    summary, page = made()
    assert (summary["teacher"]["weights"], summary["student"]["weights"]) == (bound, free)
    text = page.text["results"]
    assert "starts from timm:big.in1k (cc-by-nc-4.0), for non-commercial use only." in text
    assert "The student starts from timm:small.in1k (apache-2.0)." in text
    (warning,) = [text for text in summary["warnings"] if "licen" in text]
    assert warning.startswith("The weights that the teacher starts from, timm:big.in1k, are")
    assert warning in text


def test_a_student_without_errors_has_no_pictures_of_them(chain):
    Path("artifacts/analysis/errors.png").unlink()
    change("reports/analysis.json", confused=[], confident_errors=[])
    _, page = made()
    assert "classifies all 24 test images correctly" in page.text["errors"]
    assert len(page.images) == 1


def test_a_loaded_teacher_and_a_proxy_of_its_own_have_their_rows(chain):
    Path("reports/teacher/history.csv").write_text("epoch,loss/total,val_accuracy\n0,,0.99\n")
    change("reports/teacher/metrics.json", lambda m: (m.pop("best_epoch"), m.pop("epochs")))
    change("reports/proxy/metrics.json", method="eskd", accuracy=0.9)
    _, page = made()
    assert page.text["curves"].count("teacher (loaded, not trained here)") == 1
    assert page.tables["curves"][0][0] == ["teacher", "loaded from a checkpoint, not trained here"]
    assert [row[0] for row in page.tables["results"][0]][1:4] == ["teacher", "proxy", "student"]
    assert page.tables["results"][0][2][2] == "90.00 %"
    assert page.tables["calibration"][0][2] == ["proxy", "1.00 %"]
    pairs = ["teacher, proxy", "teacher, student", "proxy, student"]
    assert [row[0] for row in page.tables["similarity"][0][1:]] == pairs


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (LATENCY, None, r"reports/latency\.json: no such file"),
        ("reports/analysis.json", "{", r"reports/analysis\.json: not readable as JSON"),
        ("reports/classes.csv", None, r"reports/classes\.csv: no such file"),
    ],
)
def test_what_is_missing_or_damaged_is_named_and_nothing_is_written(chain, path, content, message):
    Path(path).unlink()
    if content is not None:
        Path(path).write_text(content)
    with pytest.raises(InputError, match=message):
        report.main(Params())
    assert not PAGE.exists()
    assert not SUMMARY.exists()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it_in_light_and_dark_and_as_wide_as_a_phone(reported, tmp_path):
    with opened_page() as page:
        page.open((reported / PAGE).as_uri())
        for dark in (False, True):
            page.look(tmp_path / "shown.png", 380, dark=dark, phone=True)
            with Image.open(tmp_path / "shown.png") as image:
                shown = np.asarray(image.convert("L"), dtype=float)
            assert shown.mean() < 60 if dark else shown.mean() > 200
            assert shown.std() > 10  # it is not empty
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        assert page.complaints == []
