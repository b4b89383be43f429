"""Run a small study with the real stages; compare its arithmetic with results by hand."""

from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.results import FOLDER
from benchmarks.study import Study
from models.errors import InputError
from stages.files import read_json, write_json

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
  warm: {method: kd, temperature: 8.0, augmentation.crop_padding: 0}
"""


def write_results(study: Study) -> None:
    """Write what a training of a student leaves."""
    write_json(study.work / "reports/distill/metrics.json", {"accuracy": 0.5})
    write_json(study.work / "reports/distill/environment.json", {"precision": "fp32"})
    (study.work / "reports/distill/history.csv").write_text("epoch\n1\n")


@pytest.mark.usefixtures("forked_stages")
def test_a_study_is_trained_once_and_becomes_a_table(page, capfd, monkeypatch):
    monkeypatch.setenv("ACKD_LOGITS", str(Path("logits").absolute()))
    plan = Path("plan.yaml")
    plan.write_text(PLAN)

    def compare() -> list[str]:
        """Run the comparison and return the trainings that ran."""
        comparison.main(plan, "digits", Path("work").absolute())
        shown = capfd.readouterr().out.splitlines()
        return [line.split(":")[0] for line in shown if ", seed " in line]

    assert compare() == ["kd, seed 0", "warm, seed 0"]
    assert compare() == []

    runs = read_json(FOLDER / "plan.json")["runs"]
    kd, warm = (100 * runs[f"{name}, seed 0"]["accuracy"] for name in ("kd", "warm"))
    (row,) = (line for line in page.read_text().splitlines() if line.startswith("| warm"))
    assert row.endswith(f"| {warm - kd:+.2f} |")
    assert float(runs["kd, seed 0"]["last_epoch"]["epoch"]) == 1
    assert runs["kd, seed 0"]["machine"].endswith(", fp32")
    assert runs["warm, seed 0"]["settings"]["augmentation"] == {"crop_padding": 0}

    with pytest.raises(InputError, match="has no variant colder"):
        comparison.main(plan, "digits", Path("work"), only=["colder"])
    plan.write_text(PLAN.replace("temperature: 8", "temperature: 9"))
    with pytest.raises(InputError, match=r"warm, seed 0 had other settings"):
        compare()
    plan.write_text(PLAN.replace("epochs: 1", "epochs: 2"))
    with pytest.raises(InputError, match=r"holds results with \w+ .*, not "):
        compare()


def test_a_peer_that_measures_its_speed_is_compared_in_it():
    ours = {"accuracy": 0.5, "machine": "m", "last_epoch": {"images_per_second": "12.5"}}
    theirs = {"accuracy": 0.4, "machine": "m", "images_per_second": 10.0}
    training = {"network": "a", "epochs": 1}
    results = {
        "teachers": {"0": 0.5},
        "params": {"teacher": training, "distill": training},
        "runs": {"kd, seed 0": ours, "timm's train.py, seed 0": theirs},
    }
    variants = dict.fromkeys(["kd", "timm's train.py"])
    plan = {"variants": variants, "baselines": ["timm's train.py"]}
    text = comparison.markdown(results, plan)
    assert "| kd | 50.00 | 50.00 to 50.00 (1 seed) | 12.5 | +10.00 |" in text
    assert "| timm's train.py | 40.00 | 40.00 to 40.00 (1 seed) | 10.0 |  |" in text
    assert "test accuracy after" in text
    for run in (ours, theirs):
        run["val_accuracy"] = 0.25
    text = comparison.markdown(results, plan | {"tuning": True})
    assert "| kd | 25.00 |" in text
    assert "validation accuracy after the last epoch" in text


def test_a_variant_may_be_trained_by_the_loop_of_a_peer(page, checkout, monkeypatch):
    def run(study: Study, module: str, params: object, *arguments: str) -> None:
        ran.append((module, *arguments))
        write_json(study.work / "repdistiller.json", {"accuracy": 0.5})
        write_results(study)

    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(Study, "_run", run)
    monkeypatch.setattr(Study, "train_teacher", lambda study, _: setattr(study, "teacher", "0"))
    plan = Path("plan.yaml")
    plan.write_text(PLAN.replace("warm", "RepDistiller's loop"))
    comparison.main(plan, "digits", Path("work"))
    comparison.main(plan, "digits", Path("work"), repdistiller=checkout)
    peer = "benchmarks.contenders.repdistiller"
    assert ran == [("stages.distill",), (peer, str(checkout))]
    assert "| RepDistiller's loop | 50.00 |" in page.read_text()


@pytest.mark.usefixtures("page")
def test_the_students_of_a_seed_have_one_teacher(monkeypatch):
    monkeypatch.setattr(Study, "_run", lambda study, *_: write_results(study))
    studies = []
    for name, weights, accuracy in (("a", b"one", 0.5), ("b", b"another", 0.625)):
        work = Path(name)
        (work / "artifacts/proxy").mkdir(parents=True)
        (work / "artifacts/proxy/model.safetensors").write_bytes(weights)
        write_json(work / "reports/teacher/metrics.json", {"accuracy": accuracy})
        studies.append(Study("one", {"teacher": {"network": "a", "epochs": 1}}, work))
        studies[-1].train_teacher(None)
    one, other = studies
    one.distil("kd, seed 0", {"distill": {"seed": 0, "method": "kd"}})
    other.distil("kd, seed 1", {"distill": {"seed": 1, "method": "kd"}})
    other.distil("scratch, seed 0", {"distill": {"seed": 0, "method": "scratch"}})
    with pytest.raises(InputError, match="seed 0 has students of another teacher"):
        other.distil("sp, seed 0", {"distill": {"seed": 0, "method": "sp"}})
    results = read_json(FOLDER / "one.json")
    results["params"]["distill"] = results["params"]["teacher"]
    assert "a (1 epochs, 50.00%, 62.50%)" in comparison.markdown(
        results, {"variants": ["kd"], "baselines": []}
    )
    one.distil("sp, seed 0", {"distill": {"seed": 0, "method": "sp"}})
    runs = read_json(FOLDER / "one.json")["runs"]
    assert list(runs) == ["kd, seed 0", "kd, seed 1", "scratch, seed 0", "sp, seed 0"]
