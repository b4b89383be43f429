"""docs/paper: every number has a preset, and is compared with ours if possible."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.params import Params, read_yaml
from stages.report_page.paper import method_of, paper_figures, title
from tests.stages.html_page import change, made, reasons

ROOT = Path(__file__).parents[3]
TABLES = {n: read_yaml(ROOT / f"docs/paper/table{n}.yaml") for n in range(2, 8)}


def test_every_row_has_a_preset_of_its_pair_and_of_its_method():
    counts = []
    for number in range(2, 8):
        table = TABLES[number]
        for row in table["figures"]:
            pair = f"{table['data']}/{row['teacher']}_{row['student']}"
            assert (ROOT / f"presets/{pair}.yaml").is_file()
            if row["method"] != "teacher":
                assert (ROOT / f"presets/methods/{row['method']}.yaml").is_file()
        counts.append(len(table["figures"]))
    assert counts == [60, 22, 11, 11, 5, 5]


PLAIN = "without attention and adversary"
WITHOUT = {"ackd": {"attention": False, "adversarial": False}}
TAKD = {"method": "assistants", "assistants": {"networks": ["resnet14"]}}


@pytest.mark.parametrize(
    ("distill", "proxy", "name", "shown"),
    [
        ({"method": "vid"}, {}, "vid", "VID"),
        ({"method": "kd"}, {"method": "early_stopped"}, "eskd", "ESKD"),
        ({"method": "kd"}, TAKD, "takd", "TAKD"),
        ({"method": "kd", "kd": {"standardize": True}}, {}, "kd_standardized", "KD, standardized"),
        ({"method": "reviewkd"}, {}, "reviewkd", "ReviewKD"),
        ({}, {}, "ackd", "ACKD"),
        ({"ackd": {"learners": ["D4B1", "D3B2"]}}, {}, "ackd", "ACKD"),
        (WITHOUT, {}, f"ackd_{'_'.join(PLAIN.split())}", f"ACKD {PLAIN}"),
        ({"ackd": {"learners": ["D2B2", "D2B2"]}}, {}, "ackd_d2b2_d2b2", "ACKD, D2B2 and D2B2"),
    ],
)
def test_what_a_run_is_called(distill, proxy, name, shown):
    assert method_of(Params.model_validate({"distill": distill, "proxy": proxy})) == name
    assert title(name) == shown


PAIR = {"report": {"paper": "cifar100"}, "teacher": {"network": "wrn_40_2"}}
PAIR |= {"distill": {"network": "wrn_40_1"}}
RECIPE = {"epochs": 200, "batch_size": 128, "schedule": "multi_step", "milestones": [100, 150]}


@pytest.fixture
def pair(chain):
    """A chain with one of the paper's pairs, and the paper's numbers."""
    Path("docs").mkdir()
    Path("docs/paper").symlink_to(ROOT / "docs/paper")
    change("reports/teacher/metrics.json", network="wrn_40_2")
    change("reports/distill/metrics.json", network="wrn_40_1")


def test_the_papers_numbers_are_compared_with_ours(pair):
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


def test_top5_is_compared_with_the_papers(pair):
    change("reports/teacher/metrics.json", network="resnet34")
    change("reports/distill/metrics.json", network="resnet18")
    top5 = {"value": 0.9, "low": 0.89, "high": 0.91}
    change(
        "reports/analysis.json",
        lambda found: [one.update(top5_accuracy=top5) for one in found["scores"].values()],
    )
    settings = {"report": {"paper": "imagenet"}, "distill": {"method": "kd"}}
    summary, page = made(Params.model_validate(settings))
    assert summary["paper"]["top5_accuracies"]["ackd"] == 0.9043
    assert "eskd" not in summary["paper"]["top5_accuracies"]
    _, table = page.tables["paper"]
    assert ["KD, this run", "89.88 %", "90.00 %", "+0.12"] in table
    assert ["teacher", "91.42 %", "90.00 %", "−1.42"] in table


def merged(*contents: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for content in contents:
        for key, value in content.items():
            inner = isinstance(value, dict)
            found[key] = merged(found.get(key, {}), value) if inner else value
    return found


def test_the_presets_differ_in_nothing(monkeypatch):
    monkeypatch.chdir(ROOT)
    for table in TABLES.values():
        counts = {split: {"count": table[f"{split}_images"]} for split in ("train", "test")}
        for row in table["figures"]:
            if row["method"] == "teacher":
                continue
            teacher, student, data = row["teacher"], row["student"], table["data"]
            names = f"{data}/{teacher}_{student}", f"methods/{row['method']}"
            content = merged(*(read_yaml(Path(f"presets/{name}.yaml")) for name in names))
            measured = SimpleNamespace(
                data={"splits": counts, "image_size": content["data"]["image_size"]},
                teacher={"network": teacher},
                student={"network": student},
            )
            figures = paper_figures(measured, Params.model_validate(content))
            assert figures["differs"] == [], names
            content["distill"]["learning_rate"] *= 2
            figures = paper_figures(measured, Params.model_validate(content))
            assert [reason.split()[0] for reason in figures["differs"]] == ["distill.learning_rate"]


def test_what_cannot_be_compared_is_said(pair):
    content = PAIR | {
        "distill": {
            "ackd": {"objective": "diversity"},
            "weights": "pretrained",
            "temperature": 2.0,
        },
        "augmentation": {"mixup": 0.2},
    }
    _, page = made(Params.model_validate(content))
    text = page.text["paper"]
    assert "From Table 2 of the paper. This run is not comparable with it: " in text
    for reason in (
        "distill.epochs is 15 instead of 200",
        "teacher.batch_size is 64 instead of 128",
        "24 train images instead of 50,000",
        "24 test images instead of 10,000",
        "distill.ackd.objective is diversity instead of minimax",
        "distill.weights is pretrained",
        "distill.temperature is 2.0 instead of 4.0",
        "augmentation.mixup is 0.2",
        "augmentation.horizontal_flip is False instead of True",
    ):
        assert reason in text


def test_a_run_by_the_papers_recipe_is_comparable(pair):
    def whole(content):
        for split, images in (("train", 50_000), ("test", 10_000)):
            content["splits"][split]["count"] = images

    change("reports/data.json", whole)
    change("reports/data.json", image_size=32)
    flipped = {"crop_padding": 4, "horizontal_flip": True}
    content = PAIR | {"teacher": RECIPE, "distill": RECIPE, "augmentation": flipped}
    summary, page = made(Params.model_validate(content))
    assert summary["paper"]["differs"] == []
    assert "This run was trained as in the paper" in page.text["paper"]


def test_a_pair_that_the_paper_lacks_is_said_to_be_missing(pair):
    change("reports/distill/metrics.json", network="resnet8")
    summary, page = made(Params.model_validate(PAIR))
    assert summary["paper"]["accuracies"] == {}
    assert "paper" not in page.order
    reason = reasons(summary)["the paper's figures"]
    assert reason == "the paper has none for wrn_40_2 and resnet8 on cifar100"
