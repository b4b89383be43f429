"""A small study by the real stages, and its arithmetic against figures worked out by hand."""

import json
from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.results import markers
from benchmarks.study import Study
from models.errors import InputError

PLAN = """\
params:
  data: {image_size: 8, train_per_class: 8}
  training: {precision: fp32}
  teacher: {network: resnet8, epochs: 1, batch_size: 40}
  distill: {network: resnet8, epochs: 1, batch_size: 40}
seeds: 1
baselines: [kd]
variants:
  kd: {method: kd}
  warm: {method: kd, temperature: 8.0}
"""


@pytest.mark.usefixtures("forked_stages")
def test_a_study_is_trained_once_and_becomes_a_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACKD_LOGITS", str(tmp_path / "logits"))
    plan, page, output = (tmp_path / name for name in ("plan.yaml", "page.md", "plan.json"))
    plan.write_text(PLAN)
    page.write_text("\n".join([*markers("plan"), ""]))

    def compare() -> list[str]:
        """The trainings that ran."""
        comparison.main(plan, "digits", tmp_path / "work", output=output, page=page)
        shown = capfd.readouterr().out.splitlines()
        return [line.split(":")[0] for line in shown if ", seed " in line]

    assert compare() == ["kd, seed 0", "warm, seed 0"]
    assert compare() == []

    runs = json.loads(output.read_text())["runs"]
    kd, warm = (100 * runs[f"{name}, seed 0"]["accuracy"] for name in ("kd", "warm"))
    (row,) = (line for line in page.read_text().splitlines() if line.startswith("| warm"))
    assert row.endswith(f"| {warm - kd:+.2f} |")
    assert float(runs["kd, seed 0"]["last_epoch"]["epoch"]) == 1

    plan.write_text(PLAN.replace("temperature: 8", "temperature: 9"))
    with pytest.raises(InputError, match=r"warm, seed 0 had other settings"):
        compare()
    plan.write_text(PLAN.replace("epochs: 1", "epochs: 2"))
    with pytest.raises(InputError, match="holds results of other settings"):
        compare()


def test_a_teacher_that_is_another_is_refused(tmp_path: Path) -> None:
    study = Study({"teacher": {}}, tmp_path, tmp_path / "output.json")
    (tmp_path / "artifacts/proxy").mkdir(parents=True)
    (tmp_path / "artifacts/proxy/model.safetensors").write_bytes(b"one")
    (tmp_path / "reports/teacher").mkdir(parents=True)
    (tmp_path / "reports/teacher/metrics.json").write_text('{"accuracy": 0.5}')
    study.train_teacher(None)
    (tmp_path / "artifacts/proxy/model.safetensors").write_bytes(b"another")
    with pytest.raises(InputError, match="holds results with another teacher"):
        Study({"teacher": {}}, tmp_path, tmp_path / "output.json").train_teacher(None)


def test_studies_that_share_an_output_keep_each_others_runs(tmp_path: Path) -> None:
    output = tmp_path / "output.json"
    one, other = (Study({"teacher": {}}, tmp_path / name, output) for name in ("one", "other"))
    one.keep("kd, seed 0", {}, {"accuracy": 0.5})
    other.keep("kd, seed 1", {}, {"accuracy": 0.6})
    one.keep("kd, seed 2", {}, {"accuracy": 0.7})
    runs = json.loads(output.read_text())["runs"]
    assert [run["accuracy"] for _, run in sorted(runs.items())] == [0.5, 0.6, 0.7]


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    with pytest.raises(InputError, match="has no variant colder"):
        comparison.main(plan, "digits", tmp_path, only=["colder"])
