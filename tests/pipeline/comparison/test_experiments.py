"""Experiments of real repositories: whole, damaged, unfinished."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import InputError
from pipeline.comparison.experiments import list_experiments, of_sweep
from tests.pipeline.comparison import exps


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a git repository without a commit."""
    monkeypatch.chdir(tmp_path)
    exps.git(tmp_path, "init", "--quiet", "--initial-branch=main")
    return tmp_path


def test_names_seeds_and_figures(repository: Path) -> None:
    names = ["night.kd.seed10", "night.kd.seed9", "night.ackd.seed0", "puce-loft"]
    for number, name in enumerate(names):
        exps.commit(repository, name, exps.files(exps.summary(0.5 + number / 10), seed=number))
    # DVC's own notes beside them are no experiments.
    some = exps.git(repository, "rev-parse", f"refs/exps/00/{'0' * 38}/puce-loft")
    for reference in ("refs/exps/stash", "refs/exps/exec/EXEC_HEAD"):
        exps.git(repository, "update-ref", reference, some)
    exps.write(repository, exps.files(exps.summary(0.75), seed=5))
    found = list_experiments()

    ordered = [names[2], names[1], names[0], names[3], "workspace"]
    assert [e.name for e in found] == ordered
    assert [(e.sweep, e.variant, e.seed) for e in found] == [
        ("night", "ackd", 0),
        ("night", "kd", 9),
        ("night", "kd", 10),
        (None, "puce-loft", 3),
        (None, "workspace", 5),
    ]
    assert [e.results and e.results.student.accuracy for e in found] == pytest.approx(
        [0.7, 0.6, 0.5, 0.8, 0.75]
    )
    assert all(e.reason is None for e in found)
    assert found[0].command == "dvc exp apply night.ackd.seed0"
    assert found[-1].command is None
    assert [e.name for e in of_sweep(found, "night")] == [names[2], names[1], names[0]]
    with pytest.raises(InputError, match=r"^day: no such sweep here; expected one of night$"):
        of_sweep(found, "day")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"params.yaml": None}, "params.yaml is missing: the chain was not run to its report"),
        ({"params.yaml": "a: [1"}, "params.yaml: not readable as YAML"),
        ({"dvc.lock": "schema: '2.0'\n"}, "dvc.lock has no stage report: the chain was not run"),
        ({"dvc.lock": "stages:\n  report:\n    outs: 1\n"}, "dvc.lock is damaged at the stage"),
        ({"reports/summary.json": "{}"}, "reports/summary.json is not the one that the report"),
        ({"params.yaml": "distill: {seed: 7}\n"}, "params.yaml is newer than reports/summary.json"),
        (
            {"reports/distill/metrics.json": "{}"},
            "reports/distill/metrics.json is newer than reports/summary.json: the chain was not",
        ),
        ({"reports/classes.csv": 'class,images_digest\n"a'}, "reports/classes.csv is not readable"),
        (exps.files("{"), "reports/summary.json is not readable as JSON"),
        (exps.files([]), "reports/summary.json is not a JSON object"),
        (exps.files({"data": {}}), "reports/summary.json: has no data.source, so another version"),
        (exps.files(exps.summary(1.5)), "reports/summary.json: student.accuracy is 1.5, expected"),
    ],
)
def test_one_that_is_damaged_or_unfinished_is_listed_with_its_reason(
    damage: dict[str, str | None], reason: str, repository: Path
) -> None:
    exps.commit(repository, "night.kd.seed0", exps.files(exps.summary(0.5)) | damage)
    exps.commit(repository, "night.kd.seed1", exps.files(exps.summary(0.6), seed=1))
    broken, whole, workspace = list_experiments()
    assert (broken.name, broken.results) == ("night.kd.seed0", None)
    assert broken.reason is not None
    assert broken.reason.startswith(reason)
    assert "\n" not in broken.reason
    assert whole.reason is None
    assert workspace.reason == "params.yaml is missing: the chain was not run to its report"


def test_the_newest_of_a_name_counts_and_dvc_is_told_which(repository: Path) -> None:
    old, new = (
        exps.commit(
            repository,
            "night.kd.seed0",
            exps.files(exps.summary(0.5)),
            base=base * 40,
            time=time,
        )
        for base, time in (("2", 10**9), ("1", 10**9 + 1))
    )
    found = list_experiments()[:2]
    assert {(e.revision, e.reason) for e in found} == {
        (new, None),
        (old, f"a newer experiment has this name; this one is {old[:7]}"),
    }
    assert {e.command for e in found if e.reason is None} == {f"dvc exp apply {new[:10]}"}


def test_branches_and_commits_where_they_are_asked_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The project may lie below the root of the repository.
    of = {f"below/{path}": text for path, text in exps.files(exps.summary(0.5)).items()}
    revision = exps.commit(repository, "some", of)
    exps.git(repository, "branch", "release", revision)
    (repository / "below").mkdir()
    monkeypatch.chdir(repository / "below")
    same, _, found = list_experiments(["release"])
    assert (same.name, same.reason) == ("some", None)
    assert (found.name, found.revision, found.reason) == ("release", revision, None)
    assert found.command == "git checkout release && dvc checkout"
    with pytest.raises(InputError, match=r"^--rev releas: no commit, branch or tag"):
        list_experiments(["releas"])
