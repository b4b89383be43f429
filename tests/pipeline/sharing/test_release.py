"""Releases through DVC's registry, and bundles that are fetched by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.keys import new_key, public_text
from tests.bundles import make_bundle, pack, seal
from tests.pipeline.conftest import invoke
from tests.sharing import assert_whole, commit, dvc, git, project

__all__ = ["project"]


@pytest.fixture
def store(project: Path) -> Path:
    """The folder of the default remote, which is committed."""
    code, _, error = invoke("remote", "add", "storage", "../store", "--no-check")
    assert (code, error) == (0, "")
    commit(project)
    return project.parent / "store"


def tags(project: Path) -> list[str]:
    """Of the git remote."""
    listed = git(project, "ls-remote", "--tags", "--refs", "origin").splitlines()
    return [line.partition("refs/tags/")[2] for line in listed]


def next_bundle(
    project: Path, version: str, key: Ed25519PrivateKey | None = None, name: str = "student"
) -> None:
    """Results with another bundle, committed."""
    bundle = seal(make_bundle(project.parent / version), version, key, name=name)
    shutil.copy(pack(bundle), project / "made.tar.gz")
    dvc(project, "repro", "--quiet")
    commit(project)


def test_a_release_is_fetched_by_name(
    project: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("releases")[1].startswith("nothing is released")
    branches = git(project, "for-each-ref", "refs/heads", "refs/remotes")
    code, output, error = invoke("release", "student", "1.0.0", "--stage", "prod")
    assert (code, error) == (0, "")
    assert output.splitlines() == [
        "student 1.0.0: released",
        f"  bundle  storage ({store}): sent",
        "  tags    origin: student#prod#1, student@v1.0.0",
    ]
    assert tags(project) == ["student#prod#1", "student@v1.0.0"]
    assert git(project, "for-each-ref", "refs/heads", "refs/remotes") == branches
    assert_whole(store)
    first = git(project, "rev-parse", "HEAD").strip()[:7]
    code, _, error = invoke("release", "student", "1.0.0")
    assert (code, error) == (
        1,
        f"error: student 1.0.0: exists already, of the commit {first}; the next are 1.0.1, 1.1.0"
        " and 2.0.0, and `ackd promote` gives one that exists a stage\n",
    )
    next_bundle(project, "1.1.0")
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

    # Another repository's stages are seen and changed by what is in git alone.
    code, output, _ = invoke("releases", origin)
    assert code == 0
    assert [line.split(", ")[0] for line in output.splitlines()] == [
        "student 1.1.0",
        "student 1.0.0",
    ]
    assert output.splitlines()[1].endswith(f", {first}, prod")
    monkeypatch.chdir(project)
    code, output, _ = invoke("promote", "student", "1.1.0", "prod")
    assert (code, output) == (0, "student 1.1.0: prod now (student#prod#2)\n")
    assert invoke("releases")[1].splitlines()[0].endswith(", prod")
    assert not invoke("releases")[1].splitlines()[1].endswith(", prod")
    assert invoke("promote", "student", "1.1.0", "prod")[1] == (
        "student 1.1.0: prod already; nothing was changed\n"
    )
    assert invoke("promote", "student", "7.0.0", "prod")[2] == (
        "error: student 7.0.0: not released; released are 1.0.0, 1.1.0\n"
    )


def test_what_cannot_be_fetched_leaves_nothing(
    project: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("release", "student", "1.0.0")[0] == 0
    origin = str(project.parent / "origin.git")
    empty = project.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    public, key_id = new_key(project.parent / "signing.key")
    code, output, error = invoke("fetch", origin, "student", "--key", str(public))
    assert (code, output) == (1, "")
    assert error.startswith(f"error: manifest.json: not signed, and the key {key_id} is required")
    code, _, error = invoke("fetch", origin, "student", "--version", "3.0.0")
    assert code == 1
    assert error == f"error: student: not released as 3.0.0 in {origin}; released are 1.0.0\n"
    stored = next(path for path in store.rglob("*") if path.is_file() and is_gzip(path))
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-100])
    code, _, error = invoke("fetch", origin, "student")
    assert code == 1
    assert len(error.splitlines()) == 1
    assert list(empty.iterdir()) == []
    assert invoke("fetch", origin, "student", "--version", "1.0.0", "--stage", "prod")[2] == (
        "error: --version: the stage has a version already; leave one of the two out\n"
    )


def test_another_bundle_in_the_place_of_the_one_that_was_asked_for(
    project: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same model and signed by the same key, so that its signature is right."""
    key = Ed25519PrivateKey.generate()
    commits, contents = {}, {}
    for version in ("1.0.0", "1.1.0"):
        next_bundle(project, version, key)
        assert invoke("release", "student", version, "--stage", "prod")[0] == 0
        commits[version] = git(project, "rev-parse", "HEAD").strip()
        contents[version] = (project / "made.tar.gz").read_bytes()
    origin = str(project.parent / "origin.git")
    public = project.parent / "key.pub"
    public.write_text(public_text(key.public_key()))
    monkeypatch.chdir(project.parent)

    def fetched(*which: str) -> str:
        code, _, error = invoke("fetch", origin, "student", *which, "--key", str(public))
        assert code == bool(error)
        assert bool(error) != bool(list(Path().glob("student-*")))
        return error

    assert fetched("--version", "1.0.0") == ""
    Path("student-1.0.0.tar.gz").unlink()
    (newer,) = (p for p in store.rglob("*") if p.is_file() and p.read_bytes() == contents["1.1.0"])
    newer.chmod(0o644)
    newer.write_bytes(contents["1.0.0"])
    for which in (["--version", "1.1.0"], ["--stage", "prod"]):
        assert fetched(*which) == (
            "error: student 1.1.0: the remote has another file than dvc.lock of the commit"
            f" {commits['1.1.0'][:7]} records; have who released it send it again\n"
        )
    newer.write_bytes(contents["1.1.0"])
    tree = f"{commits['1.0.0']}^{{tree}}"
    other = git(project, "commit-tree", tree, "-p", commits["1.1.0"], "-m", "Other").strip()
    git(project, "tag", "--force", "-a", "student@v1.1.0", other, "-m", "moved")
    git(project, "push", "--quiet", "--force", "origin", "student@v1.1.0")
    assert fetched("--version", "v1.1.0") == (
        f"error: student 1.1.0: the commit {other[:7]} that has this tag holds a bundle of student"
        " 1.0.0; have it released anew\n"
    )


def test_a_release_whose_file_cannot_be_known(project: Path, store: Path) -> None:
    git(project, "rm", "--quiet", "--cached", "dvc.lock")
    git(project, "commit", "--quiet", "-m", "No lock")
    git(project, "tag", "-a", "student@v1.0.0", "-m", "by hand")
    assert invoke("fetch", ".", "student")[2].startswith(
        "error: student 1.0.0: dvc.yaml and dvc.lock of the commit "
    )


def test_a_bundle_of_another_name_is_not_released(project: Path, store: Path) -> None:
    next_bundle(project, "1.0.0", name="teacher")
    assert invoke("release", "student", "1.0.0")[2].startswith(
        "error: artifacts/bundle.tar.gz: says that it is teacher 1.0.0, and student 1.0.0 is to be"
    )


def is_gzip(path: Path) -> bool:
    return path.read_bytes()[:2] == b"\x1f\x8b"


def test_what_is_not_to_be_released_is_refused(project: Path, store: Path) -> None:
    def refusal(*arguments: str) -> str:
        code, output, error = invoke("release", *arguments)
        assert (code, output) == (1, "")
        assert len(error.splitlines()) == 1
        return error.removeprefix("error: ")

    assert refusal("other", "1.0.0").startswith("other: not among the artifacts of dvc.yaml (stud")
    assert refusal("student", "1.0") == (
        "1.0: no semantic version of three numbers; the next of student are 0.1.0 and 1.0.0\n"
    )
    assert refusal("student", "1.0.0", "--stage", "a b").startswith("a b: no name for the registry")
    assert refusal("student", "2.0.0").startswith(
        "artifacts/bundle.tar.gz: says that it is student 1.0.0, and student 2.0.0 is to be"
        " released; set package in params.yaml"
    )
    (project / "params.yaml").write_text("gate: {min_accuracy: 0.7}\n")
    assert refusal("student", "1.0.0") == (
        "params.yaml: changed and not committed; a release is of a commit\n"
    )
    commit(project)
    assert refusal("student", "1.0.0") == (
        "dvc.lock: not of the present code and parameters (gate would run); run `ackd run` and"
        " commit the results\n"
    )
    (project / "goals.json").write_text(
        '{"passed": false, "goals": [{"goal": "min_accuracy", "met": false}]}\n'
    )
    dvc(project, "repro", "--quiet")
    commit(project)
    assert refusal("student", "1.0.0").startswith(
        "reports/gate.json: the gate is not passed (min_accuracy), so there is nothing to release"
    )
    assert tags(project) == []
    assert not store.exists()


def test_a_bundle_that_is_nowhere_is_refused(project: Path, store: Path) -> None:
    shutil.rmtree(project / ".dvc/cache")
    code, _, error = invoke("release", "student", "1.0.0")
    assert code == 1
    assert error == (
        "error: storage: some results are neither in the cache nor on the remote; run `ackd run` to"
        " make them, or `dvc fetch` from where they are\n"
    )
    (project / "artifacts/bundle.tar.gz").unlink()
    assert invoke("release", "student", "1.0.0")[2] == (
        "error: artifacts/bundle.tar.gz: not here; run `dvc pull artifacts/bundle.tar.gz`, or"
        " `ackd run`\n"
    )
    assert git(project, "tag") == ""


def test_a_release_that_was_not_sent_is_completed(project: Path, store: Path) -> None:
    hook = project.parent / "origin.git/hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    hook.chmod(0o755)
    code, output, error = invoke("release", "student", "1.0.0", "--stage", "prod")
    assert (code, output) == (1, "")
    assert error.startswith("error: git push: ")
    assert len(error.splitlines()) == 1
    assert git(project, "tag") == ""
    hook.unlink()
    # As a kill before the tags were sent leaves it.
    git(project, "tag", "-a", "student@v1.0.0", "-m", "left over")
    code, output, error = invoke("release", "student", "1.0.0", "--stage", "prod")
    assert (code, error) == (0, "")
    assert f"storage ({store}): there already" in output
    assert tags(project) == ["student#prod#1", "student@v1.0.0"]
