"""Release bundles with DVC's registry, and fetch them by name."""

import shutil
from pathlib import Path

import pytest

from stages.bundle.keys import new_key
from stages.identify_inputs import main
from stages.params import load_params
from tests.bundles import make_bundle, pack, seal
from tests.pipeline.conftest import invoke
from tests.pipeline.sharing.conftest import commit, dvc, git


@pytest.fixture
def store(project):
    """The folder of the default remote, which is configured in git."""
    folder = project.parent / "store"
    (project / ".dvc/config").write_text(
        f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {folder}\n"
    )
    commit(project)
    return folder


def tags(project: Path) -> list[str]:
    """Return the tags of the git remote."""
    listed = git(project, "ls-remote", "--tags", "--refs", "origin").splitlines()
    return [line.partition("refs/tags/")[2] for line in listed]


def refusal(*arguments: str) -> str:
    """Return the one-sentence error of a command that exits with status 1."""
    code, output, error = invoke(*arguments)
    assert (code, output) == (1, "")
    assert len(error.splitlines()) == 1
    return error.removeprefix("error: ").rstrip()


def next_bundle(project: Path, version: str, name: str = "student") -> None:
    """Commit results with another bundle."""
    bundle = seal(make_bundle(project.parent / version), version, name=name)
    shutil.copy(pack(bundle), project / "made.tar.gz")
    dvc(project, "repro", "--quiet")
    commit(project)


def test_a_release_is_fetched_by_name(project, store, monkeypatch):
    branches = git(project, "for-each-ref", "refs/heads", "refs/remotes")
    code, output, error = invoke("release", "student", "1.0.0", "--stage", "prod")
    assert (code, error) == (0, "")
    assert output.splitlines() == [
        "student 1.0.0: released",
        "  bundle  on the remote storage",
        "  tags    student#prod#1, student@v1.0.0",
    ]
    assert tags(project) == ["student#prod#1", "student@v1.0.0"]
    assert git(project, "for-each-ref", "refs/heads", "refs/remotes") == branches
    first = git(project, "rev-parse", "HEAD")[:7]
    # Releasing again changes nothing; from another commit it is refused.
    assert "already there" in invoke("release", "student", "v1.0.0", "--stage", "prod")[1]
    next_bundle(project, "1.1.0")
    assert refusal("release", "student", "1.0.0").startswith(
        f"student 1.0.0: already exists for the commit {first}; set package.version in params.yaml"
    )
    assert invoke("release", "student", "v1.1.0")[0] == 0

    origin = str(project.parent / "origin.git")
    empty = project.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    code, output, error = invoke("fetch", origin, "student", "--stage", "prod")
    assert (code, error) == (0, "")
    assert output.startswith("student-1.0.0.tar.gz: student 1.0.0, ")
    assert [path.name for path in empty.iterdir()] == ["student-1.0.0.tar.gz"]
    code, output, _ = invoke("fetch", origin, "student", "--out", "greatest")
    assert (code, output.partition(":")[0]) == (0, "greatest/student-1.1.0.tar.gz")

    monkeypatch.chdir(project)
    moved = invoke("release", "student", "1.1.0", "--stage", "prod")[1]
    assert moved.endswith("tags    student#prod#2\n")

    # A valid but different bundle: on the remote, then by a moved tag.
    content = (project / "made.tar.gz").read_bytes()
    (stored,) = (p for p in store.rglob("*") if p.is_file() and p.read_bytes() == content)
    stored.chmod(0o644)
    stored.write_bytes((empty / "student-1.0.0.tar.gz").read_bytes())
    second = git(project, "rev-parse", "HEAD")
    assert refusal("fetch", origin, "student", "--stage", "prod") == (
        f"student 1.1.0: the remote's file differs from the one in dvc.lock of the"
        f" commit {second[:7]}; ask its author to push it again"
    )
    stored.write_bytes(content)
    other = git(project, "commit-tree", f"{first}^{{tree}}", "-p", second, "-m", "Other")
    git(project, "tag", "--force", "-a", "student@v1.1.0", other, "-m", "moved")
    git(project, "push", "--quiet", "--force", "origin", "student@v1.1.0")
    assert refusal("fetch", origin, "student", "--version", "v1.1.0") == (
        f"student 1.1.0: the commit {other[:7]} with this tag has a bundle of student"
        " 1.0.0; ask its author to release it again"
    )
    assert not list(project.glob("student-*"))


def test_a_failed_fetch_leaves_nothing(project, store, monkeypatch):
    assert invoke("release", "student", "1.0.0")[0] == 0
    origin = str(project.parent / "origin.git")
    empty = project.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert refusal("fetch", "/no/such", "student") == (
        "registry of /no/such: cannot be cloned (No git repository was found at /no/such); correct"
        " the address, or get access to it"
    )
    public, key_id = new_key(project.parent / "signing.key")
    assert refusal("fetch", origin, "student", "--key", str(public)).startswith(
        f"manifest.json: not signed, but the key {key_id} is required"
    )
    assert refusal("fetch", origin, "student", "--version", "3.0.0") == (
        f"student: not released as 3.0.0 in {origin}; releases: 1.0.0"
    )
    assert refusal("fetch", origin, "student", "--version", "1.0.0", "--stage", "prod").startswith(
        "--version: --stage already selects a version"
    )
    secret = "http://me:password@127.0.0.1:9/x.git"
    assert "password" not in refusal("fetch", secret, "student")
    shutil.rmtree(store)
    assert refusal("fetch", origin, "student").startswith("student 1.0.0: not fetched (dvc get: ")
    assert list(empty.iterdir()) == []


def test_a_release_without_dvc_lock_is_refused(project):
    git(project, "rm", "--quiet", "--cached", "dvc.lock")
    git(project, "commit", "--quiet", "-m", "No lock")
    git(project, "tag", "-a", "student@v1.0.0", "-m", "by hand")
    assert "1.0.0: dvc.yaml and dvc.lock of the commit " in refusal("fetch", ".", "student")


def test_unreliable_results_are_not_released(project, store):
    release = ["release", "student", "1.0.0"]
    assert refusal("release", "other", "1.0.0").startswith(
        "other: not among the artifacts of dvc.yaml (student); add it with"
    )
    assert refusal("release", "student", "1.0") == (
        "student 1.0: expected a semantic version of three numbers, such as 1.2.0"
    )
    assert refusal("release", "student", "2.0.0").startswith(
        "artifacts/bundle.tar.gz: is student 1.0.0, expected student 2.0.0; set package in params."
    )
    assert "a b" in refusal(*release, "--stage", "a b")
    (project / "params.yaml").write_text("gate: {min_accuracy: 0.7}\n")
    assert refusal(*release).startswith("params.yaml: changed or untracked; a release refers to")
    git(project, "commit", "--quiet", "--all", "-m", "Change")
    assert refusal(*release).endswith(": not pushed; run `git push origin HEAD`")
    git(project, "push", "--quiet", "origin", "HEAD")
    assert refusal(*release) == (
        "dvc.lock: outdated by changes of code or parameters (gate would run); run `ackd run` and"
        " commit the results"
    )
    (project / "goals.json").write_text(
        '{"passed": false, "goals": [{"goal": "min_accuracy", "met": false}]}\n'
    )
    dvc(project, "repro", "--quiet")
    commit(project)
    assert refusal(*release).startswith(
        "reports/gate.json: the gate failed (min_accuracy), so there is nothing to release"
    )
    assert git(project, "tag") == ""
    assert tags(project) == []


def test_results_of_replaced_inputs_are_not_released(project, store):
    release = ["release", "student", "1.0.0"]
    weights = project.parent / "teacher.pth"
    weights.write_text("weights")
    text = f"gate: {{min_accuracy: 0.9}}\nteacher: {{weights: '{weights}'}}\n"
    (project / "params.yaml").write_text(text)
    main(load_params())
    commit(project)
    weights.write_text("others")
    assert refusal(*release) == (
        "reports/inputs/teacher.json: outdated, because what it describes was replaced; run"
        " `ackd run` and commit the results"
    )
    (project / "stages").mkdir()
    (project / "stages/new.py").touch()
    assert refusal(*release).startswith("stages/new.py: changed or untracked; a release refers to")
    (project / "stages/new.py").unlink()
    weights.unlink()  # results are also released from machines without the inputs
    assert invoke(*release)[0] == 0


def test_a_local_default_remote_and_another_bundle_are_refused(project):
    release = ["release", "student", "1.0.0"]
    (project / ".dvc/config.local").write_text(
        "[core]\n    remote = mine\n['remote \"mine\"']\n    url = ../../mine\n"
    )
    assert refusal(*release).startswith(".dvc/config: names no default remote for others")
    next_bundle(project, "1.0.0", name="teacher")
    assert "is teacher 1.0.0, expected student 1.0.0" in refusal(*release)


def test_a_missing_bundle_is_refused(project, store):
    shutil.rmtree(project / ".dvc/cache")
    assert refusal("release", "student", "1.0.0").startswith(
        "artifacts/bundle.tar.gz: neither in DVC's cache nor on the remote storage; run `ackd run`"
    )
    (project / "artifacts/bundle.tar.gz").unlink()
    assert refusal("release", "student", "1.0.0") == (
        "artifacts/bundle.tar.gz: not found; run `dvc pull artifacts/bundle.tar.gz`, or `ackd run`"
    )
    assert git(project, "tag") == ""


def test_an_interrupted_release_is_completed(project, store):
    release = ["release", "student", "1.0.0", "--stage", "prod"]
    store.write_text("no folder")
    assert refusal(*release).startswith("dvc push: ")
    store.unlink()
    hook = project.parent / "origin.git/hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    hook.chmod(0o755)
    assert refusal(*release).startswith("git push: ")
    assert git(project, "tag") == ""
    hook.unlink()
    # The state after a kill before pushing tags.
    git(project, "tag", "-a", "student@v1.0.0", "-m", "left over")
    assert invoke(*release)[0] == 0
    assert tags(project) == ["student#prod#1", "student@v1.0.0"]
