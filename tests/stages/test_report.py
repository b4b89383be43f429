import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.errors import InputError
from stages import report
from stages.analysis.intervals import Gain
from stages.figures import millions, points, ratio, significant
from stages.files import sha256
from stages.params import Params
from stages.report_page import charts, learners
from tests.stages import chain_files

PAGE, SUMMARY = Path("reports/index.html"), Path("reports/summary.json")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        chain_files.write_chain()
    return folder


@pytest.fixture
def chain(finished, tmp_path, monkeypatch):
    """A finished chain of its own, to be changed at will."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


class Page(HTMLParser):
    """What a browser would see: texts by section, tables as lists, and every reference."""

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
        self.references += re.findall(
            r"url\(([^)]*)\)", " ".join(filter(None, attributes.values()))
        )

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


def made(params: Params | None = None) -> tuple[dict, Page]:
    report.main(params or Params())
    return json.loads(SUMMARY.read_text()), Page(PAGE.read_text(encoding="utf-8"))


def change(path: str, edit) -> None:
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))


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


def test_an_engine_shows_its_layers_and_both_its_clocks(chain):
    gpu = {"n": 512, "p50_ms": 0.0412, "p90_ms": 0.0431}
    latency = {"batch_size": 1, "gpu": gpu, "wall": {"n": 512, "p50_ms": 0.18, "p90_ms": 0.21}}
    layers = {"float32": ["a"], "int8": ["b", "c"]}

    def build(content):
        onnxruntime = content["results"][0]
        for shape, times in (("static", latency), ("dynamic", None)):
            built = {"runtime": "tensorrt", "shape": shape, "layers": layers, "latency": times}
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
    assert "int8_s8s8 is dominated by int8_u8s8" in text
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
    _, page = made()
    html = PAGE.read_text(encoding="utf-8")
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "@import" not in page.style
    assert "url(" not in page.style
    assert all(r.startswith(("data:", "#")) for r in page.references), page.references
    assert [image.partition(",")[0] for image in page.images] == ["data:image/png;base64"]
    assert not {"script", "iframe", "object", "embed"} & set(re.findall(r"<(\w+)", html))
    assert str(Path.cwd()) not in html


def test_ids_are_unique_and_references_into_the_page_exist(chain):
    _, page = made()
    assert len(page.ids) == len(set(page.ids))
    inside = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert inside
    assert inside <= set(page.ids)


def test_the_charts_have_no_colour_and_no_font_of_their_own(chain):
    made()
    html = PAGE.read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) == 1 + 3 + 4 + 1 + 2
    for drawing in drawings:
        assert not re.search(r"(?:fill|stroke): ?#|rgb\(|font-family|font:", drawing)
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    style = html.split("<style>")[1].split("</style>")[0]
    dark = style.split("prefers-color-scheme: dark")[1].split("\n}")[0]
    light = style.split("@media")[0]
    assert used - {"--colour"} <= set(re.findall(r"(--[\w-]+):", light))
    assert set(re.findall(r"(--[\w-]+):", light)) == set(re.findall(r"(--[\w-]+):", dark))


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
    strength = float(re.search(r"\.heat td .*var\(--heat, 0%\) \* ([\d.]+)", style)[1])
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
        made()
        sums.append((sha256(PAGE), sha256(SUMMARY)))
    assert sums[0] == sums[1]


def test_names_are_escaped(chain):
    _, page = made()
    assert "a <b> & $c$" in page.tables["data"][0][-1][1]
    change("reports/device.json", lambda d: d.update(cpu="<script>alert(1)</script>"))
    _, page = made()
    assert "<script>" not in PAGE.read_text()
    assert "<script>alert(1)</script>" in page.text["environment"]


@pytest.mark.parametrize("method", ["kd", "scratch"])
def test_a_method_without_learners_has_no_section_for_them(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    chain_files.write_chain(method)
    summary, page = made()
    assert "learners" not in page.order
    assert {"what": "auxiliary learners", "reason": f"the method {method} has none"} in summary[
        "skipped"
    ]
    assert "Nothing but the student was trained" in page.text["prune"]
    origin = "trained from scratch" if method == "scratch" else "distilled from resnet20 by KD"
    assert f"resnet8, {origin}" in page.text[""]


def test_a_loaded_teacher_has_a_level_line_and_no_loss(chain):
    Path("reports/teacher/history.csv").write_text("epoch,loss/total,val_accuracy\n0,,0.99\n")
    metrics = json.loads(Path("reports/teacher/metrics.json").read_text())
    del metrics["best_epoch"], metrics["epochs"]
    Path("reports/teacher/metrics.json").write_text(json.dumps(metrics))
    _, page = made()
    assert page.text["curves"].count("teacher (loaded, not trained here)") == 1
    assert page.tables["curves"][0][0] == ["teacher", "loaded from a checkpoint, not trained here"]


@pytest.mark.parametrize("names", [["D3B1"], ["D3B1", "D2B2", "D1B3"]])
def test_one_epoch_and_any_number_of_learners(chain, names):
    chain_files.write_training(epochs=1, learners=names)
    pairs = [f"{a}~{b}" for a, b in itertools.combinations(names, 2)]

    def analysed(content):
        content["learners"] = {
            "cka": dict.fromkeys(pairs, 0.5),
            "agreement": dict.fromkeys([*pairs, f"target~{names[0]}"], 0.9),
            "accuracy": dict.fromkeys(["target", *names, "ensemble"], 0.8),
            "attention": dict.fromkeys(names, 1 / len(names)),
        }

    change("reports/analysis.json", analysed)
    _, page = made()
    rows = [row[0] for row in page.tables["learners"][0]]
    assert rows == ["", "target (the student)", *names, "ensemble"]
    assert len(page.tables["learners"][1]) == 1 + len(pairs) + 1


def test_a_proxy_that_is_not_the_teacher_has_its_row(chain):
    change("reports/proxy/metrics.json", lambda m: m.update(method="eskd", accuracy=0.9))
    _, page = made()
    assert [row[0] for row in page.tables["results"][0]][1:4] == ["teacher", "proxy", "student"]
    assert page.tables["results"][0][2][2] == "90.00 %"


def test_without_one_thread_latency_is_said_to_be_missing(chain):
    def keep_two(content):
        content["results"] = [r for r in content["results"] if r["threads"] == 2]

    change("reports/latency.json", keep_two)
    summary, page = made()
    missing = {"what": "latency at one thread", "reason": "profile.threads lacks 1"}
    assert missing in summary["skipped"]
    assert "Not measured: no export has both" in page.text["trade-off"]


PAIR = {
    "report": {"paper": "cifar100"},
    "teacher": {"network": "wrn_40_2"},
    "distill": {"network": "wrn_40_1"},
}
RECIPE = {"epochs": 200, "batch_size": 128, "schedule": "multi_step", "milestones": [100, 150]}


@pytest.fixture
def pair(chain):
    """A chain of one of the paper's pairs, and the paper's figures."""
    Path("docs").mkdir()
    Path("docs/paper").symlink_to(Path(__file__).parents[2] / "docs/paper")
    change("reports/teacher/metrics.json", lambda m: m.update(network="wrn_40_2"))
    change("reports/distill/metrics.json", lambda m: m.update(network="wrn_40_1"))


def test_without_the_papers_pair_there_are_no_figures_of_it(chain):
    summary, page = made()
    assert summary["paper"] is None
    assert "paper" not in page.order


def test_the_papers_figures_stand_beside_ours(pair):
    summary, page = made(Params.model_validate(PAIR | {"distill": {"method": "kd"}}))
    paper = summary["paper"]
    assert (paper["data"], paper["tables"], paper["method"]) == ("cifar100", [2], "kd")
    assert paper["accuracies"]["teacher"] == 0.7622
    assert paper["accuracies"]["ackd"] == 0.7529
    assert list(paper["accuracies"])[:3] == ["teacher", "scratch", "at"]
    (table,) = page.tables["paper"]
    assert table[0] == ["method", "paper", "this run", "difference, points"]
    assert ["teacher", "76.22 %", "98.89 %", "+22.67"] in table
    assert ["KD, this run", "73.54 %", "97.50 %", "+23.96"] in table
    assert ["ACKD", "75.29 %", "—", "—"] in table
    assert len(table) == 1 + 12


def test_what_cannot_be_compared_is_said(pair):
    content = PAIR | {"distill": {"ackd": {"objective": "diversity"}}}
    _, page = made(Params.model_validate(content))
    text = page.text["paper"]
    assert "From Table 2 of the paper. This run is not comparable with it: " in text
    for reason in (
        "distill.epochs is 15 instead of 200",
        "teacher.batch_size is 64 instead of 128",
        "24 train images instead of 50,000",
        "24 test images instead of 10,000",
        "distill.ackd.objective is diversity instead of minimax",
    ):
        assert reason in text


def test_a_run_by_the_papers_recipe_is_comparable(pair):
    def whole(content):
        for split, images in (("train", 50_000), ("test", 10_000)):
            content["splits"][split]["count"] = images

    change("reports/data.json", whole)
    content = PAIR | {"teacher": RECIPE, "distill": RECIPE}
    summary, page = made(Params.model_validate(content))
    assert summary["paper"]["differs"] == []
    assert "This run was trained as the paper says" in page.text["paper"]


def test_a_pair_that_the_paper_lacks_is_said_to_be_missing(pair):
    change("reports/distill/metrics.json", lambda m: m.update(network="resnet8"))
    summary, page = made(Params.model_validate(PAIR))
    assert summary["paper"]["accuracies"] == {}
    assert "paper" not in page.order
    reason = "the paper has none for wrn_40_2 and resnet8 on cifar100"
    assert {"what": "the paper's figures", "reason": reason} in summary["skipped"]


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


def test_every_chart_says_how_to_read_it(chain):
    made()
    html = PAGE.read_text(encoding="utf-8")
    for figure in re.findall(r"<figure>.*?</figure>", html, re.S):
        title = re.search(r"<h3>(.*?)</h3>", figure)[1]
        said = re.search(r"<figcaption>([^<]+\.)</figcaption>", figure)
        # One sentence stands for all charts of these two sections.
        assert said or "thread" in title or title.startswith("Test accuracy and latency"), title
        assert len(re.search(r'aria-label="([^"]+)"', figure)[1]) > 20


def history(**columns: list[float]) -> dict[str, list[float]]:
    names = {"d": "discriminator_accuracy", "a": "attention/D3B1", "b": "attention/D2B2"}
    epochs = [float(n) for n in range(1, 1 + max([len(v) for v in columns.values()], default=0))]
    return {"epoch": epochs} | {names[key]: values for key, values in columns.items()}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, []),
        ({"d": [0.5] * 9 + [0.7] * 2}, []),
        ({"d": [0.9] * 8 + [0.51, 0.49]}, ["pinned at 50 % in each of the last 2 epochs"]),
        ({"d": [0.7] * 8 + [0.99, 1.0]}, ["pinned at 100 % in each of the last 2 epochs"]),
        ({"d": [0.7] * 8 + [0.5, 0.99]}, []),
        ({"d": [0.985]}, ["pinned at 100 % in the last epoch"]),
        ({"a": [0.5, 0.9], "b": [0.5, 0.1]}, ["collapsed on D3B1, with 90.00 % of the weight"]),
        ({"a": [0.99, 0.8], "b": [0.01, 0.2]}, []),
        ({"a": [1.0]}, []),  # a learner alone has all of it
    ],
)
def test_warns_where_learners_or_discriminators_no_longer_work(columns, expected):
    found = learners.warnings(history(**columns))
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def test_warnings_stand_in_the_summary_and_above_the_charts(chain):
    summary, page = made()
    assert summary["warnings"] == []
    assert "Warning" not in page.text["learners"]
    path = Path("reports/distill/history.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("attention/D3B1")
    for row in rows[1:]:
        row[column] = "0.97"
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    summary, page = made()
    (sentence,) = summary["warnings"]
    assert "collapsed on D3B1, with 97.00 %" in sentence
    assert sentence in page.text["learners"]


def test_attention_by_class_shows_the_extremes(chain):
    chain_files.write_class_figures(100)
    _, page = made()
    table = page.tables["learners"][2]
    shown = [int(row[0].removeprefix("class ")) for row in table[1:]]
    assert sorted(shown) == [*range(10), *range(90, 100)]
    assert ["class 99", "64.9 %", "35.1 %"] in table
    assert "Attention by class (20 of 100, those farthest" in page.text["learners"]
    assert 'style="--heat: 100%">64.9 %</td>' in PAGE.read_text()


@pytest.mark.parametrize("weights", [{"a": [0.5, 0.5], "b": [0.5, 0.5]}, {"a": [1.0, 1.0]}, {}])
def test_attention_that_is_the_same_everywhere_is_left_out(weights):
    classes = [
        {"class": str(n), "images": 3} | {f"attention/{name}": w[n] for name, w in weights.items()}
        for n in range(2)
    ]
    assert learners.attention_by_class(classes) is None


def test_classes_without_test_images_are_left_out():
    classes = [
        {"class": "a", "images": 0, "attention/x": None, "attention/y": None},
        {"class": "b", "images": 2, "attention/x": 0.4, "attention/y": 0.6},
        {"class": "c", "images": 2, "attention/x": 0.6, "attention/y": 0.4},
    ]
    assert [row[0] for row in learners.attention_by_class(classes).rows] == ["c", "b"]


def test_calibration_of_networks_and_exports(chain):
    summary, page = made()
    assert summary["calibration_error"] == {"teacher": 0.01, "proxy": 0.01, "student": 0.02}
    rows = page.tables["calibration"][0]
    # The proxy is the teacher.
    assert rows[1:4] == [["teacher", "1.00 %"], ["student", "2.00 %"], ["fp32", "1.20 %"]]
    change("reports/proxy/metrics.json", lambda m: m.update(method="eskd"))
    _, page = made()
    assert page.tables["calibration"][0][2] == ["proxy", "1.00 %"]


def test_a_reliability_diagram_is_drawn_at_its_values():
    bins = [charts.Bin(0.5, 0.2, 0.6), charts.Bin(0.3, 0.4, 0.4), charts.Bin(0.2, 0.8, 0.0)]
    svg = charts.reliability("name", {"a": bins}, "one").svg
    marks = re.findall(
        r'<use href="#name-\w+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--series-1', svg
    )
    x, y = np.array(marks, dtype=float).T
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(1 / 3, abs=1e-3)
    assert (y[1] - y[0]) / (y[2] - y[0]) == pytest.approx(1 / 3, abs=1e-3)


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


def test_a_gain_is_drawn_with_its_interval_the_first_at_the_top():
    rows = [
        ("best", Gain(0.1, 0.05, 0.2)),
        ("none", Gain(0, -0.1, 0.1)),
        ("worst", Gain(-0.1, -0.2, -0.05)),
    ]
    svg = charts.differences("name", rows, "three").svg
    (best, worst) = (points_of(svg, n) for n in (1, 2))
    assert best[0, 1] == best[1, 1] < worst[0, 1]
    scale = (best[1, 0] - best[0, 0]) / 15
    assert (worst[1, 0] - worst[0, 0]) / scale == pytest.approx(15, rel=1e-3)
    assert (best[0, 0] - worst[0, 0]) / scale == pytest.approx(25, rel=1e-3)


def points_of(svg: str, series: int) -> np.ndarray:
    """The vertices of a series' line in the coordinates of the drawing."""
    path = re.search(rf'<path d="([^"]+)"[^>]*stroke: var\(--series-{series}\)', svg, re.S)
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1]), dtype=float)


def test_a_curve_is_drawn_at_its_values():
    chart = charts.lines(
        "name", {"a": ([1, 2, 3], [0.0, 4.0, 1.0])}, y_label="loss", describes="a curve"
    )
    x, y = points_of(chart.svg, 1).T
    np.testing.assert_allclose(np.diff(x)[1:], np.diff(x)[0], rtol=1e-4)
    np.testing.assert_allclose((y[0] - y) / (y[0] - y[1]), [0, 1, 0.25], atol=1e-4)
    assert chart.legend == [("a", "var(--series-1)", False)]


def test_a_distribution_shows_every_quantile_and_the_extremes():
    times = np.random.default_rng(0).lognormal(size=5000)
    chart = charts.distributions("name", {"a": list(times)}, "a distribution")
    x, y = points_of(chart.svg, 1).T
    share = (y[0] - y) / (y[0] - y[-1])
    # x is logarithmic: scaled to the known minimum and maximum it must give the median.
    scale = np.log(times.max() / times.min()) / (x[-1] - x[0])
    median = times.min() * np.exp((np.interp(0.5, share, x) - x[0]) * scale)
    assert median == pytest.approx(np.median(times), rel=0.01)


def test_labels_of_equal_points_do_not_overlap():
    same = [charts.Point(f"export {n}", n, 1.0, 1.1, 0.9, False) for n in range(4)]
    svg = charts.accuracy_against_latency("name", same, 0.9, "four").svg
    found = re.findall(r"""<text[^>]*? y="([\d.]+)"[^>]*>export \d</text>""", svg)
    heights = [float(height) for height in found]
    assert len(heights) == 4
    assert min(np.diff(sorted(heights))) >= 10


def test_more_series_than_colours_are_told_apart_by_dashes():
    many = {str(n): ([1, 2], [n, n]) for n in range(8)}
    legend = charts.lines("name", many, y_label="y", describes="many").legend
    assert len(legend) == 8
    assert len({(colour, dashed) for _, colour, dashed in legend}) == 8


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
    assert ratio(272474, 78042) == "3.49×"


def test_a_precision_has_one_colour_in_every_chart(chain):
    change("reports/latency.json", lambda c: c["results"].pop(0))  # fp32 at one thread
    change("artifacts/latency/samples.json", lambda s: s.update({"local:|onnxruntime|fp32|1": []}))
    made()
    scatter, *_, one, _two = re.findall(r"<svg.*?</svg>", PAGE.read_text(), re.S)
    assert "--series-1" not in scatter
    assert "--series-1" not in one
    for drawing in (scatter, one):
        assert {f"--series-{n}" for n in (2, 3, 4)} <= set(re.findall(r"--series-\d", drawing))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it_in_light_and_dark_and_as_wide_as_a_phone(chain, tmp_path):
    made()
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
