"""What is trained by which way, with stages that only write what a study reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy
from benchmarks.results import markers
from benchmarks.study import Study
from stages.files import read_json, write_json
from stages.params import load_params


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran, with the precision and seed of each student."""
    seen: list[str] = []

    def run(study: Study, module: str, *arguments: str) -> None:
        params, name = load_params(study.work / "params.yaml"), module.rpartition(".")[2]
        if arguments:
            given: dict[str, Any] = json.loads(arguments[0])
            seed = given["params"]["distill"]["seed"]
            seen.append(f"{given['checkout']} {seed}")
            return write_json(study.work / "repdistiller.json", {"accuracy": 0.5 + seed / 10})
        if name == "distill":
            seen.append(f"{params.training.precision} {params.distill.seed}")
            reports = study.work / "reports/distill"
            reports.mkdir(exist_ok=True)
            (reports / "history.csv").write_text("epoch\n10\n")
            write_json(reports / "metrics.json", {"accuracy": 0.6 + params.distill.seed / 10})
        elif name == "train_proxy":
            for folder in ("artifacts/proxy", "reports/teacher"):
                (study.work / folder).mkdir(parents=True)
            (study.work / "artifacts/proxy/model.safetensors").touch()
            write_json(study.work / "reports/teacher/metrics.json", {"accuracy": 0.7})
        return None

    monkeypatch.setattr(Study, "run_module", run)
    return seen


def test_each_way_is_trained_once_and_becomes_a_row(ran: list[str], tmp_path: Path) -> None:
    checkout, page, output = (tmp_path / name for name in ("rep", "page.md", "accuracy.json"))
    (checkout / "helper").mkdir(parents=True)
    (checkout / "helper/loops.py").touch()
    page.write_text("\n".join([*markers("accuracy"), ""]))
    trained = [f"{way} {seed}" for seed in (0, 1) for way in ("fp32", "bf16", checkout)]
    for _ in range(2):
        accuracy.main("digits", tmp_path / "work", checkout, output=output, page=page)
        assert ran == trained
    assert read_json(output)["runs"]["bf16 1"]["settings"]["training"] == {"precision": "bf16"}
    text = page.read_text()
    assert "resnet56 (5 epochs, 70.00%) to resnet20 (10 epochs)" in text
    assert "| fp32 | 65.00 | 60.00, 70.00 |\n| bf16 |" in text
    assert "| RepDistiller's loop, fp32 | 55.00 | 50.00, 60.00 |" in text
