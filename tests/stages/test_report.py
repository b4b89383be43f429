import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from stages import report
from stages.files import sha256
from stages.formatting import millions, points, significant, times
from stages.params import Params
from tests.stages import chain_files
from tests.stages.html_page import PAGE, SUMMARY, change, made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_the_summary_is_as_docs_files_says(chain):
    summary, _ = made()
    assert summary["data"] == {
        "source": "digits",
        "train": 24,
        "val": 24,
        "test": 24,
        "classes": 4,
        "image_size": 16,
    }
    assert summary["teacher"] == {
        "network": "resnet20",
        "accuracy": 0.9889,
        "parameters": 272474,
        "macs": 40813184,
        "size_mb": pytest.approx(1.089896),
    }
    assert summary["proxy"] == {"method": "teacher", **summary["teacher"]}
    assert summary["student"]["accuracy"] == 0.975
    assert summary["student"]["method"] == "ackd"
    assert summary["student"]["parameters"] == 78042
    assert summary["drop_from_teacher"] == pytest.approx(0.0139)
    samples = json.loads(Path("artifacts/latency/samples.json").read_text())
    assert list(summary["exports"]) == chain_files.PRECISIONS
    int8 = summary["exports"]["int8_u8s8"]
    p50 = {
        name: np.median(samples[f"local:|onnxruntime|{name}|1"]) for name in chain_files.PRECISIONS
    }
    assert int8 == {
        "made_by": "fine-tuning",
        "size_mb": Path("artifacts/onnx/int8_u8s8.static.onnx").stat().st_size / 1e6,
        "accuracy": pytest.approx(0.9722),
        "drop": 0.0028,
        "drop_low": pytest.approx(-0.0032),
        "drop_high": pytest.approx(0.0108),
        "max_relative_error": 4e-7,  # the worse of the two shapes
        "agreement": pytest.approx(0.9972),
        "calibration_error": pytest.approx(0.0148),
        "status": "passed",
        "reason": None,
        "p50_ms": pytest.approx(np.median(samples["local:|onnxruntime|int8_u8s8|1"])),
        "p90_ms": pytest.approx(np.quantile(samples["local:|onnxruntime|int8_u8s8|1"], 0.9)),
        "threads": 1,
        "noisy": False,
        "speedup": pytest.approx(p50["fp32"] / p50["int8_u8s8"]),
        "dominated_by": [],
    }
    assert summary["exports"]["fp32"]["speedup"] == 1
    assert {"what": "tensorrt fp32", "reason": "no NVIDIA GPU"} in summary["skipped"]
    p99 = {"what": "p99 of fp16 at 1 thread", "reason": "400 samples, under 500"}
    assert p99 in summary["skipped"]


def test_accuracies_are_those_of_the_whole_test_split(chain):
    def static_saw_less(content):
        for result in content["results"]:
            if result["shape"] == "static":
                result |= {"accuracy": 0.1, "drop": 0.9, "agreement": 0.1, "images": 10}

    change("reports/validation.json", static_saw_less)
    summary, _ = made()
    assert summary["exports"]["fp32"]["accuracy"] == pytest.approx(0.975)


def test_a_failed_validation_and_a_failed_latency_show_with_their_reasons(chain):
    def fail(content):
        for result in content["results"]:
            if result["precision"] == "fp16":
                result |= {"status": "failed", "reason": "wrong <logits>", "golden": None}
                result |= {"accuracy": None, "drop": None, "agreement": None}

    def crash(content):
        for result in content["results"]:
            if result["precision"] == "int8_s8s8":
                figures = set(result) - {"device", "runtime", "precision", "file", "threads"}
                result.update(dict.fromkeys(figures), status="failed", reason="it crashed")

    change("reports/validation.json", fail)
    change("reports/latency.json", crash)
    samples = Path("artifacts/latency/samples.json")
    change(str(samples), lambda s: s.update({"local:|onnxruntime|int8_s8s8|1": []}))
    summary, page = made()
    fp16, int8 = (summary["exports"][name] for name in ("fp16", "int8_s8s8"))
    assert (fp16["status"], fp16["reason"], fp16["accuracy"]) == ("failed", "wrong <logits>", None)
    assert (int8["status"], int8["p50_ms"], int8["noisy"]) == ("passed", None, None)
    row = next(row for row in page.tables["results"][1] if row[0] == "fp16")
    assert row[:5] == ["fp16", "failed", "", *["not measured"] * 2]
    assert "fp16: wrong <logits>." in page.text["results"]
    reasons = {reason: what for what, reason in page.tables["not-measured"][0]}
    assert "latency of int8_s8s8 at 1 thread" in reasons["it crashed"]
    assert "onnxruntime fp16" in reasons["wrong <logits>"]


def test_a_precision_that_was_not_exported_shows_with_its_reason(chain):
    def fail(model):
        del model["files"]["int8_s8s8"], model["quantization"]["int8_s8s8"]
        model["failed"]["int8_s8s8"] = "not exported (ValueError: no)"

    def forget(content):
        content["results"] = [r for r in content["results"] if r["precision"] != "int8_s8s8"]

    change("artifacts/onnx/model.json", fail)
    change("reports/validation.json", forget)
    change("reports/latency.json", forget)
    summary, page = made()
    assert list(summary["exports"]) == chain_files.PRECISIONS
    int8 = summary["exports"]["int8_s8s8"]
    assert (int8["status"], int8["reason"]) == ("failed", "not exported (ValueError: no)")
    assert (int8["size_mb"], int8["accuracy"], int8["dominated_by"]) == (None, None, [])
    row = next(row for row in page.tables["results"][1] if row[0] == "int8_s8s8")
    assert row[:4] == ["int8_s8s8", "failed", "", "not measured"]
    assert "int8_s8s8: not exported (ValueError: no)." in page.text["results"]


def test_an_engine_shows_its_layers_and_both_its_clocks(chain):
    gpu = {"n": 512, "p50_ms": 0.0412, "p90_ms": 0.0431}
    latency = {"batch_size": 1, "gpu": gpu, "wall": {"n": 512, "p50_ms": 0.18, "p90_ms": 0.21}}
    layers = {"float32": ["a"], "int8": ["b", "c"]}

    def build(content):
        onnxruntime = content["results"][0]
        for shape, timed in (("static", latency), ("dynamic", None)):
            built = {"runtime": "tensorrt", "shape": shape, "layers": layers, "latency": timed}
            content["results"].append(onnxruntime | built | {"provider": "a <GPU>"})

    change("reports/validation.json", build)
    _, page = made()
    static, dynamic = page.tables["results"][3][1:]
    assert static == [
        *("tensorrt fp32 static", "a <GPU>", "1 float32, 2 int8", "512"),
        *("0.0412", "0.0431", "0.180", "0.210"),
    ]
    assert dynamic == ["tensorrt fp32 dynamic", "a <GPU>", "1 float32, 2 int8"]


def test_the_page_has_its_sections_in_order(chain):
    _, page = made()
    assert page.order == [
        "results",
        "trade-off",
        "curves",
        "learners",
        "similarity",
        "calibration",
        "classes",
        "grad-cam",
        "latency",
        "prune",
        "data",
        "environment",
        "parameters",
        "not-measured",
    ]
    networks, exports, validation = page.tables["results"]
    assert networks[1] == ["teacher", "resnet20", "98.89 %", "272,474", "40.8 M", "1.09"]
    assert networks[2] == ["student", "resnet8", "97.50 %", "78,042", "12.5 M", "0.312"]
    assert networks[3][2:] == ["+1.39 points", "3.49×", "3.26×", "3.49×"]
    assert exports[3][:5] == [
        *("int8_u8s8", "passed", "recommended", "97.22 %", "+0.28 (−0.32 to +1.08)")
    ]
    assert exports[3][-3:] == ["4.0e−7", "99.72 %", "fine-tuning"]
    assert len(validation) == 1 + 8 + 1
    assert validation[1][:7] == [
        *("onnxruntime 1.31.1", "fp32", "dynamic", "passed", "CPU", "float32", "4.0e−7")
    ]
    assert validation[-1] == ["tensorrt", "fp32", "static", "skipped", "no NVIDIA GPU"]
    assert ["teacher, student", "0.8123", "0.0912", "+1.39"] in page.tables["similarity"][0]
    assert page.tables["curves"][0][2][0] == "student"
    assert page.tables["curves"][0][2][1].startswith("epoch 15, the last, is kept: 97.50 % on")
    assert "cpu, bf16, processes: 2, threads of each: 1" in page.tables["curves"][0][3][1]
    assert ["− learner D2B2", "73,258", ""] in page.tables["prune"][0]
    assert ["D3B1 and D2B2", "96.94 %", "0.871"] in page.tables["learners"][1]
    assert "min_accuracy: null" in page.text["parameters"]
    assert "discriminator_learning_rate: 0.001" in page.text["parameters"]
    assert ["test images also in train", "2, by identical pixels"] in page.tables["data"][0]
    assert ["note", "not used: extra"] in page.tables["data"][0]
    assert ["damaged images, left out", "cat/1.png (not an image)"] in page.tables["data"][0]


def test_one_export_is_recommended_and_what_it_beats_in_everything_is_not(chain):
    def like_fp32(content):
        for result in content["results"]:
            if result["precision"] == "int8_s8s8":
                result |= {"accuracy": 0.97, "drop": 0.005}

    change("reports/validation.json", like_fp32)
    small, large = (Path(f"artifacts/onnx/int8_{p}.static.onnx") for p in ("u8s8", "s8s8"))
    change(
        "artifacts/onnx/model.json",
        lambda m: m["files"]["int8_s8s8"]["static"].update(bytes=small.stat().st_size + 1),
    )
    assert large.is_file()
    summary, page = made(Params.model_validate({"gate": {"max_export_drop": 0.02}}))
    assert summary["recommended"]["precision"] == "int8_u8s8"
    assert summary["exports"]["int8_s8s8"]["dominated_by"][0] == "int8_u8s8"
    verdicts = {row[0]: row[2] for row in page.tables["results"][1][1:]}
    assert verdicts["int8_u8s8"] == "recommended"
    assert verdicts["int8_s8s8"].startswith("dominated by int8_u8s8")
    text = page.text["results"]
    reason = summary["recommended"]["reason"]
    assert f"Recommended on this device: int8_u8s8, {reason}." in text
    assert "A dominated export is no better than the named ones in accuracy, size" in text
    assert (
        "int8_u8s8: made by fine-tuning, with ranges by minmax of 256 training images; decided on"
        " 180 validation images: fp32 97.78 %, calibrated 95.56 %, fine-tuned 97.22 %."
    ) in text
    assert "int8_s8s8: made by calibration, with ranges by minmax of 256 training images." in text
    # A stricter goal takes the choice back.
    summary, _ = made(Params.model_validate({"gate": {"max_export_drop": 0.001}}))
    assert summary["recommended"]["precision"] in {"fp32", "fp16"}


def test_without_a_latency_nothing_is_recommended(chain):
    change("reports/latency.json", lambda c: [r.update(threads=2) for r in c["results"]])
    summary, page = made()
    assert summary["recommended"] is None
    assert {export["speedup"] for export in summary["exports"].values()} == {None}
    assert "Recommended" not in page.text["results"]


def test_the_page_needs_no_network_and_no_other_file(chain):
    _, page = made(drawn=True)
    html = PAGE.read_text(encoding="utf-8")
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "@import" not in page.style
    assert "url(" not in page.style
    assert all(r.startswith(("data:", "#")) for r in page.references), page.references
    assert [image.partition(",")[0] for image in page.images] == ["data:image/png;base64"]
    assert not {"script", "iframe", "object", "embed"} & set(re.findall(r"<(\w+)", html))
    assert str(Path.cwd()) not in html


def test_ids_are_unique_and_references_into_the_page_exist(chain):
    _, page = made(drawn=True)
    assert len(page.ids) == len(set(page.ids))
    inside = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert inside
    assert inside <= set(page.ids)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_lines_have_enough_contrast(scheme):
    """WCAG 2.2: 4.5 for text, 3 for what a drawing means."""
    style = (Path(report.__file__).parent / "report_page/style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    declared = blocks[["light", "dark", "print"].index(scheme)]
    colours = dict(re.findall(r"(--[\w-]+): (#\w+);", declared))

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    paper = luminance(colours["--paper"])
    # The strongest cell of a heat map, behind the ink.
    strength = float(re.search(r"\.shaded .*var\(--heat\) \* ([\d.]+)", style)[1])
    channels = [
        [int(colours[name][1:][i : i + 2], 16) for i in (0, 2, 4)]
        for name in ("--series-1", "--paper")
        if len(colours[name]) == 7
    ]
    if len(channels) == 2:  # print has no backgrounds
        cell = "#" + "".join(
            f"{round(strength * a + (1 - strength) * b):02x}"
            for a, b in zip(*channels, strict=True)
        )
        low, high = sorted((luminance(colours["--ink"]), luminance(cell)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    for name, colour in colours.items():
        if name in {"--ink", "--muted"} or name.startswith("--series"):
            low, high = sorted((luminance(colour), paper))
            contrast = (high + 0.05) / (low + 0.05)
            assert contrast >= (3 if name.startswith("--series") else 4.5), (name, contrast)


def test_equal_measurements_give_equal_bytes(chain):
    sums = []
    for _ in range(2):
        made(drawn=True)
        sums.append((sha256(PAGE), sha256(SUMMARY)))
    assert sums[0] == sums[1]


def test_folders_of_this_machine_are_not_shown(chain):
    paths = {"data": {"source": "imagefolder:/home/somebody/flowers"}}
    paths["teacher"] = {"checkpoint": "~somebody/teacher.pth"}
    paths["analyze"] = {"baseline": "/home/somebody/classes.csv"}
    _, page = made(Params.model_validate(paths))
    assert "source: imagefolder:.../flowers" in page.text["parameters"]
    assert "somebody" not in PAGE.read_text()


def test_names_are_escaped(chain):
    _, page = made(drawn=True)
    assert "a <b> & $c$" in page.tables["data"][0][-1][1]
    change("reports/device.json", lambda d: d.update(cpu="<script>alert(1)</script>"))
    _, page = made(drawn=True)
    assert "<script>" not in PAGE.read_text()
    assert "<script>alert(1)</script>" in page.text["environment"]


def test_a_loaded_teacher_has_a_level_line_and_no_loss(chain):
    Path("reports/teacher/history.csv").write_text("epoch,loss/total,val_accuracy\n0,,0.99\n")
    metrics = json.loads(Path("reports/teacher/metrics.json").read_text())
    del metrics["best_epoch"], metrics["epochs"]
    Path("reports/teacher/metrics.json").write_text(json.dumps(metrics))
    _, page = made()
    assert page.text["curves"].count("teacher (loaded, not trained here)") == 1
    assert page.tables["curves"][0][0] == ["teacher", "loaded from a checkpoint, not trained here"]


def test_a_proxy_that_is_not_the_teacher_has_its_row(chain):
    change("reports/proxy/metrics.json", lambda m: m.update(method="eskd", accuracy=0.9))
    _, page = made()
    assert [row[0] for row in page.tables["results"][0]][1:4] == ["teacher", "proxy", "student"]
    assert page.tables["results"][0][2][2] == "90.00 %"


def test_without_one_thread_latency_is_said_to_be_missing(chain):
    def keep_two(content):
        content["results"] = [r for r in content["results"] if r["threads"] == 2]

    change("reports/latency.json", keep_two)
    summary, _ = made()
    missing = {"what": "latency at one thread", "reason": "profile.threads lacks 1"}
    assert missing in summary["skipped"]
    assert "latency with 2 threads" in PAGE.read_text()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("reports/latency.json", None, r"reports/latency\.json: no such file"),
        ("reports/analysis.json", "{", r"reports/analysis\.json: not readable as JSON"),
        ("reports/distill/history.csv", "epoch,val_accuracy\n1,a\n", "expected a number"),
        ("reports/distill/history.csv", "", "expected a number"),
        ("reports/classes.csv", None, r"reports/classes\.csv: no such file"),
        (
            "reports/classes.csv",
            "class,images,accuracy/student,images_digest,student_right\ncat,1,high,0,80\n",
            "expected a number",
        ),
        ("reports/teacher/history.csv", None, r"teacher/history\.csv: no such file"),
        ("artifacts/analysis/grad_cam.png", "no picture", "not a PNG file"),
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


def test_calibration_of_networks_and_exports(chain):
    summary, page = made()
    assert summary["calibration_error"] == {"teacher": 0.01, "proxy": 0.01, "student": 0.02}
    rows = page.tables["calibration"][0]
    # The proxy is the teacher.
    assert rows[1:4] == [["teacher", "1.00 %"], ["student", "2.00 %"], ["fp32", "1.20 %"]]
    change("reports/proxy/metrics.json", lambda m: m.update(method="eskd"))
    _, page = made()
    assert page.tables["calibration"][0][2] == ["proxy", "1.00 %"]


def test_figures_as_text():
    assert [significant(x) for x in (0.0, 0.03125, 4.049, 99.96, 1234.4, 4.2e-7)] == [
        "0.00",
        "0.0312",
        "4.05",
        "100",
        "1,230",
        "4.2e−7",
    ]
    assert [points(x) for x in (0.0139, -0.0139, 0.00001, -0.00001)] == [
        "+1.39",
        "−1.39",
        "0.00",
        "0.00",
    ]
    assert millions(40813184) == "40.8 M"
    assert times(272474 / 78042) == "3.49×"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it_in_light_and_dark_and_as_wide_as_a_phone(chain, tmp_path):
    made(drawn=True)
    shown = {}
    for scheme, setting in (("light", 1), ("dark", 0)):
        picture = tmp_path / f"{scheme}.png"
        browse(
            tmp_path,
            "--window-size=1000,2000",
            f"--blink-settings=preferredColorScheme={setting}",
            f"--screenshot={picture}",
            PAGE.resolve().as_uri(),
        )
        with Image.open(picture) as image:
            shown[scheme] = np.asarray(image.convert("L"), dtype=float)
    assert shown["light"].mean() > 200
    assert shown["dark"].mean() < 60
    assert shown["light"].std() > 10  # there is something on it
    assert shown["dark"].std() > 10

    # The page in a frame as wide as a phone tells how wide it wants to be.
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe id="page" src="{PAGE.resolve().as_uri()}" style="width:380px;border:0"></iframe>'
        "<script>onload = () => document.title ="
        " document.getElementById('page').contentDocument.documentElement.scrollWidth</script>"
    )
    html = browse(tmp_path, "--allow-file-access-from-files", "--dump-dom", frame.as_uri())
    assert int(re.search(r"<title>(\d+)</title>", html)[1]) <= 380


def browse(tmp_path: Path, *arguments: str) -> str:
    quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    quiet += ["disable-component-update", "disable-sync", "hide-scrollbars", "no-sandbox"]
    command = [CHROMIUM, "--headless", *(f"--{flag}" for flag in quiet)]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
