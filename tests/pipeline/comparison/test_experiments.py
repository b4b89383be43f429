"""Read complete, damaged and unfinished experiments from real repositories."""

import pytest

from models.errors import InputError
from pipeline.comparison.experiments import find
from tests.pipeline.comparison import exps

SUMMARY = "reports/summary.json"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The working directory: a git repository without a commit."""
    monkeypatch.chdir(tmp_path)
    exps.git(tmp_path, "init", "--quiet", "--initial-branch=main")
    return tmp_path


def test_names_seeds_and_accuracies(repository):
    names = ["night.kd.seed10", "night.kd.seed9", "night.ackd.seed0", "puce-loft"]
    for number, name in enumerate(names):
        exps.commit(repository, name, exps.files(exps.summary(0.5 + number / 10), seed=number))
    # DVC's internal refs are no experiments.
    some = exps.git(repository, "rev-parse", f"refs/exps/00/{'0' * 38}/puce-loft")
    for reference in ("refs/exps/stash", "refs/exps/exec/EXEC_HEAD"):
        exps.git(repository, "update-ref", reference, some)
    exps.write(repository, exps.files(exps.summary(0.75), seed=5))

    found = find(None)
    assert found.missing == []
    assert [(e.name, e.sweep, e.variant, e.seed, e.accuracy) for e in found.experiments] == [
        ("night.ackd.seed0", "night", "ackd", 0, 0.7),
        ("night.kd.seed9", "night", "kd", 9, 0.6),
        ("night.kd.seed10", "night", "kd", 10, 0.5),
        ("puce-loft", None, "puce-loft", 3, 0.8),
        ("workspace", None, "workspace", 5, 0.75),
    ]
    assert found.experiments[0].command == "dvc exp apply night.ackd.seed0"
    assert found.experiments[-1].command is None
    assert [e.name for e in find("night").experiments] == [names[2], names[1], names[0]]
    with pytest.raises(InputError, match=r"^day: no such sweep here; expected one of night$"):
        find("day")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"params.yaml": None}, "params.yaml is missing: the chain was not run up to its report"),
        ({"params.yaml": "a: [1"}, "params.yaml: not readable as YAML"),
        ({"dvc.lock": "schema: '2.0'\n"}, "dvc.lock has no stage report: the chain was not run"),
        (
            {"params.yaml": "distill: {seed: 7, method: kd}\n"},
            f"{SUMMARY} is made with distill.seed 0 (now 7): the chain was not run",
        ),
        (
            {"dvc.lock": str(exps.files("")["dvc.lock"]).replace("kd0", "kd1", 1)},
            f"{SUMMARY} is older than artifacts/distilled: the chain was not run up to",
        ),
        ({SUMMARY: None}, f"{SUMMARY} is missing: the chain was not run"),
        ({SUMMARY: "{"}, f"{SUMMARY} is not readable as JSON"),
        (
            {SUMMARY: '{"data": {}}'},
            f"{SUMMARY}: written by another version of ackd (KeyError('student')); run that exper",
        ),
    ],
)
def test_damaged_and_unfinished_experiments_are_listed_with_reasons(damage, reason, repository):
    exps.commit(repository, "night.kd.seed0", exps.files(exps.summary(0.5)) | damage)
    exps.commit(repository, "night.kd.seed1", exps.files(exps.summary(0.6), seed=1))
    found = find(None)
    assert [e.name for e in found.experiments] == ["night.kd.seed1"]
    (broken, why), workspace = found.missing
    assert broken == "night.kd.seed0"
    assert why.startswith(reason)
    assert "\n" not in why
    missing = "params.yaml is missing: the chain was not run up to its report"
    assert workspace == ("workspace", missing)


def test_the_newest_experiment_of_a_name_counts(repository):
    old, new = (
        exps.commit(
            repository, "night.kd.seed0", exps.files(exps.summary(0.5)), base=base * 40, time=time
        )
        for base, time in (("2", 10**9), ("1", 10**9 + 1))
    )
    (experiment,), missing = find("night")
    assert experiment.command == f"dvc exp apply {new[:10]}"
    reason = f"a newer experiment has this name; this one is {old[:7]}"
    assert missing == [("night.kd.seed0", reason)]


def test_branches_and_commits_on_request(repository, monkeypatch):
    # The project may be below the root of the repository.
    of = {f"below/{path}": text for path, text in exps.files(exps.summary(0.5)).items()}
    revision = exps.commit(repository, "night.kd.seed0", of)
    exps.git(repository, "branch", "release", revision)
    (repository / "below").mkdir()
    monkeypatch.chdir(repository / "below")
    same, found = find("night", ["release"]).experiments
    assert same.name == "night.kd.seed0"
    assert (found.name, found.command) == ("release", "git checkout release && dvc checkout")
    with pytest.raises(InputError, match=r"^--rev releas: no commit, branch or tag"):
        find("night", ["releas"])
