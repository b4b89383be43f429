"""The commands in docs/how-to-share.md and docs/how-to-release.md do what the pages say."""

import getpass
import shutil
from pathlib import Path

import pytest

from tests.bundles import make_bundle, pack
from tests.pages import ROOT, blocks, inline, replace, type_in
from tests.pipeline.conftest import invoke
from tests.pipeline.sharing.conftest import assert_up_to_date, clone, commit, dvc, git, s3_server
from tests.sshd import needs_sshd

pytestmark = pytest.mark.usefixtures("programs")

SHARE = "how-to-share.md"
SETTINGS = [line for line in inline(SHARE) if line.startswith("dvc remote ")]


def share(project: Path, *settings: str) -> Path:
    """Set up a remote with these commands, pull its data in another clone, and return the clone."""
    folder, proof = blocks(SHARE, "1.")
    for line in (*settings, *folder.splitlines()[1:]):
        type_in(project, line)
    assert "are in sync" in type_in(project, proof)
    elsewhere = clone(project)
    dvc(elsewhere, "pull", "--quiet")
    assert_up_to_date(elsewhere)
    return elsewhere


def test_share_and_publish_through_a_folder(project):
    [setting, _] = blocks(SHARE, "1.")
    store = str(project.parent / "store")
    elsewhere = share(project, replace(setting.splitlines()[0], ("/mnt/team/students", store)))
    (project / "source.bin").write_bytes(b"other data")
    dvc(project, "repro", "--quiet")
    [publish] = blocks(SHARE, "2.")
    type_in(project, publish)
    [get] = blocks(SHARE, "3.")
    assert "warm-teacher" in type_in(elsewhere, get)
    assert (elsewhere / "artifacts/data.bin").read_bytes() == b"other data"
    assert_up_to_date(elsewhere)


@needs_sshd
def test_share_through_ssh(project, sshd):
    _, ssh, keyfile, _, verify = SETTINGS
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}{project.parent}/store"
    key = str(sshd.folder / "user_key")
    remote = replace(ssh, ("ssh://user@host/srv/students", url))
    share(project, remote, verify, replace(keyfile, ("FILE", key)))
    assert key not in git(project, "show", "HEAD:.dvc/config")


def test_share_through_s3(project, monkeypatch):
    pytest.importorskip("moto", reason="moto is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3, _, _, endpoint, _ = SETTINGS
    remote = replace(s3, ("s3://bucket/students", "s3://students/runs"))
    with s3_server() as port:
        here = ("https://host:9000", f"http://127.0.0.1:{port}")
        share(project, remote, replace(endpoint, here))


def test_how_to_release(project):
    # Use the real parameters, and a package stage with a bundle for each version.
    shutil.copy(ROOT / "params.yaml", project)
    for version in ("1.0.0", "1.1.0"):
        made = pack(make_bundle(project.parent / version, version))
        shutil.copy(made, project / f"made-{version}.tar.gz")
    chain = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(chain.replace("made.tar", "made-${package.version}.tar"))
    assert invoke("use", "--set-param", "package.version=1.0.0")[0] == 0
    dvc(project, "remote", "add", "--default", "storage", str(project.parent / "store"))
    dvc(project, "repro", "--quiet")
    commit(project)
    assert invoke("release", "student", "1.0.0")[0] == 0

    origin = str(project.parent / "origin.git")
    [package] = blocks("how-to-release.md", "1.")
    type_in(project, package)
    release, listing = blocks("how-to-release.md", "2.")
    assert "student#prod#1, student@v1.1.0" in type_in(project, release)
    rows = [line.split() for line in type_in(project, listing).splitlines() if "student" in line]
    assert [(row[3], "prod" in row) for row in rows] == [("v1.1.0", True), ("v1.0.0", False)]
    empty = project.parent / "empty"
    empty.mkdir()
    fetch, plain = blocks("how-to-release.md", "3.")
    fetched = type_in(empty, fetch, ("URL", origin))
    assert fetched.startswith("student-1.1.0.tar.gz: student 1.1.0, ")
    type_in(empty, plain, ("URL", origin))
    [back] = blocks("how-to-release.md", "4.")
    type_in(project, back)
    fetched = type_in(empty, fetch, ("URL", origin))
    assert fetched.startswith("student-1.0.0.tar.gz: student 1.0.0, ")
    assert git(project, "status", "--porcelain") == ""
