"""Plans of sweeps, and files that are refused before anything runs."""

import json
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from models.errors import InputError
from pipeline.git_command import git
from pipeline.presets import laid
from pipeline.sweep.commits import done
from pipeline.sweep.plan import Plan, load_plan
from stages import identify_inputs
from stages.params import load_params
from tests.pipeline.conftest import ROOT
from tests.pipeline.sweep.conftest import COMMANDS, PAGE, commit, results, write_sweep


def planned(project: Path, text: str) -> Plan:
    return load_plan(write_sweep(project, f"name: t\nuntil: distill\n{text}"))


def test_variants_grids_and_seeds_make_experiments(project):
    plan = planned(
        project,
        "presets: [kd]\nseeds: [3, 5]\nset: {distill.epochs: 2}\n"
        "variants:\n  plain:\n  hot: {grid: {distill.temperature: [2, 8.5]}}\n",
    )
    names = [item.name for item in plan.experiments]
    variants = ("plain", "hot-temperature_2", "hot-temperature_8_5")
    assert names == [f"t.{name}.seed{seed}" for name in variants for seed in (3, 5)]
    hot = plan.experiments[-1].params["distill"]
    assert (hot["method"], hot["epochs"], hot["temperature"], hot["seed"]) == ("kd", 2, 8.5, 5)
    # The text equals the result of `ackd use`, including comments.
    before = (project / "params.yaml").read_text().splitlines()
    changed = [x for x in plan.experiments[-1].text.splitlines() if x not in before]
    settings = {line.split("#")[0].strip() for line in changed}
    assert settings == {"method: kd", "epochs: 2", "temperature: 8.5", "seed: 5"}


def test_what_a_variant_sets_overrides_the_shared_grid(project):
    (project / "student").mkdir()  # named like package.name
    plan = planned(
        project,
        "grid: {distill.temperature: [2, 8], distill.epochs: [3]}\n"
        "variants:\n  grid:\n  own: {set: {distill.temperature: 5}}\n",
    )
    found = {item.name.split(".")[1]: item.params["distill"] for item in plan.experiments}
    assert {name: (own["temperature"], own["epochs"]) for name, own in found.items()} == {
        "grid-temperature_2-epochs_3": (2, 3),
        "grid-temperature_8-epochs_3": (8, 3),
        "own-epochs_3": (5, 3),
    }


def test_each_seed_tests_on_its_own_fold(project):
    plan = planned(project, "seeds: 4\nset: {data.folds: 3}\nvariants: {a: }\n")
    chosen = [(item.params["data"]["fold"], item.text) for item in plan.experiments]
    assert [fold for fold, _ in chosen] == [0, 1, 2, 0]
    assert all(f"fold: {fold}\n" in text for fold, text in chosen)


def own_chain(project: Path) -> None:
    """Copy this repository's chain to the project."""
    (project / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    commit(project)


def test_experiments_that_share_a_teacher_or_logits_wait(project):
    params = (project / "params.yaml").read_text()
    assert params.count("  logits_store: true") == 1
    (project / "params.yaml").write_text(params.replace("  logits_store: true", "  #"))  # default
    own_chain(project)
    plan = planned(
        project,
        "variants:\n  kd: {presets: [kd]}\n  ackd:\n"
        "  scratch: {set: {distill.method: scratch}}\n"
        "  kd_again: {presets: [kd], set: {distill.at.feature_weight: 2.0}}\n"
        "  long: {set: {teacher.epochs: 77, distill.method: scratch}}\n"
        "  larger: {set: {distill.network: resnet14, distill.method: scratch}}\n",
    )
    shared = {
        item.name.split(".")[1]: {json.loads(key)[0] for key in item.shared}
        for item in plan.experiments
    }
    teacher = {"prepare_data", "train_teacher", "train_proxy"}
    # Options of other methods do not count, and students that read no logits do not wait.
    assert shared == {
        "kd": {*teacher, "logits", "distill"},
        "ackd": {*teacher, "logits"},
        "scratch": teacher,
        "kd_again": {*teacher, "logits", "distill"},
        "long": {"prepare_data"},
        "larger": teacher,
    }
    assert "artifacts/data" not in plan.files
    assert "params.yaml" not in plan.files


def test_the_example_of_the_page_is_a_sweep_of_this_project(project):
    shutil.rmtree(project / "presets")
    shutil.copytree(ROOT / "presets", project / "presets")
    own_chain(project)
    example = (ROOT / "docs/examples/sweep.yaml").read_text()
    page = PAGE.read_text()
    for line in example.splitlines():
        assert line.startswith("#") or f"    {line}\n" in page
    write_sweep(project, example)
    plan = load_plan(project / "sweep.yaml")
    assert len(plan.experiments) == 9
    assert plan.until == "report", "or the README's ackd compare would find no results"


def test_every_command_of_the_page_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [command for command in COMMANDS if command not in tests] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("variants: {a: {sett: {}}}", r"a\.sett: extra inputs are not permitted; see docs/how-to"),
        ("seeds: 0\nvariants: {a: }", "seeds: 0 is the number of seeds, expected 1 to 1000"),
        ("seeds: 20240101\nvariants: {a: }", r"for one seed of this value write \[20240101\]"),
        ("seeds: true\nvariants: {a: }", "seeds: expected a valid list"),
        ("seeds: [1, 1]\nvariants: {a: }", "seeds: seed 1 is listed twice; list it once"),
        ("variants: {a: {grid: {distill.epochs: [2, 2]}}}", "two experiments have the name t.a-ep"),
        ("variants: {a: {grid: {distill.epochs: [2026-12-01]}}}", "variant a-epochs_2026-12-01: "),
        ("variants: {a: {set: {distill: {seed: 2}}}}", "set.distill: expected a key such as dis"),
        ("seeds: 1", "variants: field required"),
        (
            "variants: {a: {grid: {distill.epochs: []}}}",
            "grid.distill.epochs: expected at least 1 item; see",
        ),
        (
            "set: {distill.epochs: 3}\ngrid: {distill.epochs: [2]}\nvariants: {a: }",
            "grid: distill.epochs is also in set; keep one of the two",
        ),
        ("variants: {a: {presets: [kdd]}}", "variant a: .*no such preset; did you mean 'kd'"),
        ("variants: {a: {set: {distill.network: resnet9}}}", "variant a: .*resnet9"),
        ("variants: {a: {set: {distill.seed: 3}}}", "variant a sets distill.seed, which fol"),
        ("variants: {a: {grid: {data.fold: [0, 1]}}}", "variant a sets data.fold, which follows"),
        ("variants: {a: {set: {teacher.weights: own.pt}}}", "teacher.weights: own.pt is not in"),
        (
            "variants: {a: {set: {data.source: 'torchvision:CIFAR10:local'}}}",
            "data.source: local is not in git; .*: give the absolute path",
        ),
        (
            "variants: {a: {set: {proxy.assistants.networks: ['python:local.own:build']}}}",
            "network: local/own.py is not in git; .*: add it to git",
        ),
    ],
)
def test_an_impossible_sweep_is_one_sentence(project, text, sentence):
    (project / "own.pt").touch()
    (project / "local").mkdir()
    (project / "local/own.py").touch()
    (project / ".gitignore").write_text("/*.pt\n/local\n/sweep.yaml\n")
    commit(project)
    with pytest.raises(InputError, match=sentence) as caught:
        planned(project, text)
    assert "\n" not in str(caught.value)
    assert results(project) == {}


def test_an_unknown_last_stage_and_uncommitted_files_are_refused(project, monkeypatch):
    with pytest.raises(InputError, match="until: distil is no stage of dvc.yaml; use one of"):
        load_plan(write_sweep(project, "name: t\nuntil: distil\nvariants: {a: }"))
    shallow = project.parent / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{project}", shallow], check=True)
    monkeypatch.chdir(shallow)
    with pytest.raises(InputError, match=r"this is a shallow clone, .*; run `git fetch --unshallo"):
        planned(shallow, "variants: {a: }")
    monkeypatch.chdir(project)
    (project / "source.txt").write_text("other images\n")
    with pytest.raises(InputError, match=r"source\.txt: changed and not committed"):
        planned(project, "variants: {a: }")


def exist(project: Path, plan: Plan, place: int = 0) -> None:
    """Commit one of the plan's experiments like DVC."""
    item = plan.experiments[place]
    head = git(Path(), "rev-parse", "HEAD")
    (project / "params.yaml").write_text(item.text)
    git(Path(), "commit", "--quiet", "--all", "--message", "ackd sweep t\n\nuntil: distill")
    git(Path(), "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{item.name}", "HEAD")
    git(Path(), "reset", "--quiet", "--hard", head)


def test_an_experiment_is_done_only_with_the_same_code_and_end(project):
    text = "variants: {kd: {presets: [kd]}}"
    plan = planned(project, text)
    assert not done(plan)
    exist(project, plan)
    assert done(plan) == {"t.kd.seed0"}
    (project / "notes.md").write_text("what changes no result\n")
    commit(project)
    assert done(planned(project, text))
    longer = load_plan(write_sweep(project, f"name: t\nuntil: measure\n{text}"))
    with pytest.raises(InputError, match=r"t\.kd\.seed0 exists and ends in distill, not measure"):
        done(longer)
    (project / "source.txt").write_text("other images\n")
    commit(project)
    with pytest.raises(InputError, match=r"made by other code \(source.txt changed since\)"):
        done(planned(project, text))


def test_an_experiment_is_done_only_with_the_same_inputs(project, monkeypatch):
    own_chain(project)
    images = project.parent / "images/a"
    images.mkdir(parents=True)
    (images / "0.png").write_text("pixels")
    baseline = project.parent / "kd.csv"
    baseline.write_text("class\n")
    text = (project / "params.yaml").read_text()
    own = {"data.unlabeled": f"imagefolder:{images.parent}", "analyze.baseline": str(baseline)}
    (project / "params.yaml").write_text(laid(text, [], own))
    identify_inputs.main(load_params())
    commit(project)
    text = "seeds: 2\nvariants: {kd: {presets: [kd]}}"
    plan = planned(project, text)
    for place in (0, 1):
        exist(project, plan, place)
    hashed = Mock(wraps=identify_inputs.checksum)
    monkeypatch.setattr("pipeline.sweep.commits.checksum", hashed)
    assert done(plan) == {"t.kd.seed0", "t.kd.seed1"}
    assert [call.args[0] for call in hashed.call_args_list] == [images.parent, baseline]
    baseline.write_text("class,images\n")  # analyze reads it, after the last stage
    assert done(plan) == {"t.kd.seed0", "t.kd.seed1"}
    (images / "0.png").write_text("other pixels")
    with pytest.raises(
        InputError, match=r"exists and was made from other inputs \(those of reports/"
    ):
        done(plan)
