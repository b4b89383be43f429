"""What docs/how-to-share.md and docs/how-to-release.md tell to type does what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bundles import make_bundle, pack
from tests.pages import ROOT, blocks, programs, type_in
from tests.pipeline.conftest import invoke
from tests.sharing import assert_up_to_date, clone, commit, dvc, git, project

__all__ = ["programs", "project"]


pytestmark = pytest.mark.usefixtures("programs")


def test_how_to_share(project: Path) -> None:
    store = str(project.parent / "store")
    add, keep, listing = blocks("how-to-share.md", "1.")
    type_in(project, add, ("/mnt/team/students", store))
    type_in(project, keep)
    assert type_in(project, listing) == f"storage: {store}, the default, writes and reads\n"
    (project / "source.bin").write_bytes(b"other data")
    dvc(project, "repro", "--quiet")
    [publish] = blocks("how-to-share.md", "2.")
    name = type_in(project, publish).partition(":")[0]
    [get] = blocks("how-to-share.md", "3.")
    elsewhere = clone(project)
    assert name in type_in(elsewhere, get, ("NAME", name))
    assert (elsewhere / "artifacts/data.bin").read_bytes() == b"other data"
    assert_up_to_date(elsewhere)


def test_how_to_release(project: Path) -> None:
    # The chain's own parameters, and a package stage that has a bundle for each version.
    shutil.copy(ROOT / "params.yaml", project)
    for version in ("1.0.0", "1.1.0"):
        made = pack(make_bundle(project.parent / version, version))
        shutil.copy(made, project / f"made-{version}.tar.gz")
    chain = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(chain.replace("made.tar", "made-${package.version}.tar"))
    assert invoke("use", "--set-param", "package.version=1.0.0")[0] == 0
    assert invoke("remote", "add", "storage", "../store", "--no-check")[0] == 0
    dvc(project, "repro", "--quiet")
    commit(project)
    assert invoke("release", "student", "1.0.0")[0] == 0

    origin = str(project.parent / "origin.git")
    [package] = blocks("how-to-release.md", "1.")
    type_in(project, package)
    release, listing = blocks("how-to-release.md", "2.")
    assert "student#prod#1, student@v1.1.0" in type_in(project, release)
    assert type_in(project, listing).splitlines()[0].endswith(", prod")
    empty = project.parent / "empty"
    empty.mkdir()
    fetch, plain = blocks("how-to-release.md", "3.")
    told = type_in(empty, fetch, ("URL", origin))
    assert told.startswith("student-1.1.0.tar.gz: student 1.1.0, ")
    type_in(empty, plain, ("URL", origin))
    [back] = blocks("how-to-release.md", "4.")
    assert "1.0.0: prod now" in type_in(project, back)
    told = type_in(empty, fetch, ("URL", origin))
    assert told.startswith("student-1.0.0.tar.gz: student 1.0.0, ")
    assert git(project, "status", "--porcelain") == ""
