"""Remotes and published results, with real ones: a folder, an S3 server and an sshd."""

from __future__ import annotations

import getpass
import http.server
import stat
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.cut_off import cut_off
from tests.pipeline.conftest import invoke
from tests.sharing import (
    assert_up_to_date,
    assert_whole,
    clone,
    commit,
    dvc,
    git,
    project,
    s3_server,
    small_disk,
)
from tests.sshd import Sshd, free_port, needs_sshd, sshd

__all__ = ["project", "sshd"]


@pytest.fixture
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # its waits between attempts are long
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def state(project: Path) -> tuple[str, ...]:
    """What publishing must not touch."""
    files = sorted(p for p in project.rglob("*") if p.is_file() and ".git" not in p.parts)
    files = [path for path in files if ".dvc" not in path.parts]
    return (
        git(project, "status", "--porcelain"),
        git(project, "for-each-ref", "refs/heads", "refs/remotes", "refs/stash"),
        git(project, "symbolic-ref", "HEAD"),
        *(f"{path} {path.stat().st_mtime_ns} {path.stat().st_ino}" for path in files),
    )


def test_results_are_published_once_to_a_folder(project: Path) -> None:
    store = project.parent / "store"
    code, output, error = invoke("remote", "add", "storage", "../store")
    assert (code, error) == (0, "")
    assert output.splitlines()[0] == f"storage: {store}, writes and reads, the default"
    assert list(store.iterdir()) == []  # the probe was taken away
    assert f"url = {store}" in (project / ".dvc/config").read_text()
    commit(project)
    (project / "params.yaml").write_text("gate: {min_accuracy: 0.8}\n")
    (project / "source.bin").write_bytes(b"other data")
    dvc(project, "repro", "--quiet")
    before = state(project)
    code, output, error = invoke("publish")
    assert (code, error) == (0, "")
    assert state(project) == before
    name = output.partition(":")[0]
    day, digest = name.split("-")
    assert len(day) == 8
    assert len(digest) == 7
    assert output.splitlines() == [
        f"{name}: saved as an experiment",
        f"  data  storage ({store}): 2 files sent",
        "  name  origin: sent",
        f"others get it by `dvc exp pull origin {name}`",
    ]
    assert_whole(store)

    again = invoke("publish")
    told = f"{name}: published already, on origin and storage; nothing was sent\n"
    assert again == (0, told, "")

    # Other results of the same day and parameters, and a name that is taken.
    (project / "reports/gate.json").chmod(0o755)
    assert invoke("publish", "--name", name) == (
        1,
        "",
        f"error: {name}: the experiment of this name has other results; choose another name\n",
    )
    assert invoke("publish")[1].startswith(f"{name}-2: saved as an experiment\n")


@needs_sshd
def test_results_reach_another_checkout_through_ssh(project: Path, sshd: Sshd) -> None:
    store = project.parent / "store"
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}{store}"
    code, _, error = invoke("remote", "add", "storage", url)
    assert code == 1
    assert error.startswith(f"error: {url}: cannot be used as a remote (the login is refused; load")
    key = str(sshd.folder / "user_key")
    code, output, error = invoke("remote", "add", "storage", url, "--key-file", key)
    assert (code, error) == (0, "")
    assert key not in (project / ".dvc/config").read_text()
    assert git(project, "status", "--porcelain") == " M .dvc/config\n"
    commit(project)
    assert invoke("publish")[0] == 0
    elsewhere = clone(project)
    dvc(elsewhere, "pull", "--quiet")
    assert_up_to_date(elsewhere)

    # Cut off in the middle of the data, then mended.
    (project / "source.bin").write_bytes(bytes(range(256)) * 4000)
    dvc(project, "repro", "--quiet")
    invoke("remote", "remove", "storage")
    with cut_off(sshd.port, None) as way:
        through = url.replace(str(sshd.port), str(way.port))
        invoke("remote", "add", "storage", through, "--key-file", key, "--no-check")
        assert (project / ".dvc/config.local").exists()
        way.left = 300_000
        code, output, error = invoke("publish", "--name", "cut")
        assert way.cuts
        assert (code, output) == (1, "")
        assert error.startswith(f"error: storage: sending to {through} broke off (")
        assert len(error.splitlines()) == 1
        assert_whole(store)
        way.left = None
        code, output, error = invoke("publish", "--name", "cut")
        assert (code, error) == (0, "")
        assert output.splitlines()[0] == "cut: saved before"
        assert "1 files sent" in output
        assert_whole(store)


@needs_sshd
def test_a_host_that_falls_silent_is_given_up(
    project: Path, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As docs/how-to-share.md says, with a tenth of its seconds.
    settings = tmp_path / "home/.ssh/config"
    settings.parent.mkdir(parents=True)
    settings.write_text("Host 127.0.0.1\n  ServerAliveInterval 1\n  ServerAliveCountMax 2\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = project.parent / "store"
    key = str(sshd.folder / "user_key")
    with cut_off(sshd.port, None, silently=True) as way:
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{way.port}{store}"
        assert invoke("remote", "add", "storage", url, "--key-file", key)[0] == 0
        commit(project)
        way.left = 300_000
        began = time.monotonic()
        code, output, error = invoke("publish", "--name", "cut")
        assert (code, output) == (1, "")
        assert error.startswith(f"error: storage: sending to {url} broke off (")
        assert way.cuts
        assert time.monotonic() - began < 60
        assert_whole(store)
        way.left = None
        assert invoke("publish", "--name", "cut")[0] == 0
        assert_whole(store)


@pytest.mark.usefixtures("_aws")
def test_results_reach_another_checkout_through_s3(project: Path) -> None:
    pytest.importorskip("moto", reason="moto is not installed")
    with s3_server() as port, cut_off(port, None) as way:
        endpoint = f"http://127.0.0.1:{way.port}"
        there = ["s3://students/runs", "--endpoint-url", endpoint]
        code, _, error = invoke("remote", "add", "other", "s3://nowhere", *there[1:])
        assert code == 1
        assert "(there is no such bucket); nothing was set up" in error
        code, output, error = invoke("remote", "add", "storage", *there)
        assert (code, error) == (0, "")
        assert "secret" not in output + (project / ".dvc/config").read_text()
        commit(project)

        way.left = 400_000  # of a million
        code, output, error = invoke("publish", "--name", "cut")
        assert way.cuts
        assert (code, output) == (1, "")
        assert error.startswith("error: storage: sending to s3://students/runs broke off (")
        assert len(error.splitlines()) == 1
        way.left = None
        code, output, error = invoke("publish", "--name", "cut")
        assert (code, error) == (0, "")
        assert output.splitlines()[0] == "cut: saved before"
        elsewhere = clone(project)
        dvc(elsewhere, "pull", "--quiet")
        assert_up_to_date(elsewhere)
        with urllib.request.urlopen(f"{endpoint}/students?list-type=2") as listed:
            assert b"probe" not in listed.read()


def test_secrets_that_are_asked_for_stay_on_this_machine(project: Path) -> None:
    code, output, error = invoke(
        "remote",
        "add",
        "storage",
        "s3://students",
        "--login",
        "--no-check",
        answers="THEKEY\nTHESECRET\n",
    )
    assert code == 0
    assert "THESECRET" not in output + error
    local = project / ".dvc/config.local"
    assert "secret_access_key = THESECRET" in local.read_text()
    assert stat.S_IMODE(local.stat().st_mode) == 0o600
    git(project, "add", ".")
    tracked = git(project, "grep", "--cached", "-l", "storage")
    assert tracked == ".dvc/config\n"
    assert invoke("remote", "remove", "storage")[0] == 0
    assert "THESECRET" not in local.read_text()
    assert "storage" not in (project / ".dvc/config").read_text()
    (project / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    code, _, error = invoke(
        "remote", "add", "s", "s3://students", "--login", "--no-check", answers="K\nS\n"
    )
    assert code == 1
    assert "error: .dvc/config.local: git does not ignore this file" in error
    assert "[remote" not in (project / ".dvc/config").read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["sto rage", "../x"], "sto rage: no name of a remote; expected letters, digits, - and _"),
        (["x", "s3://a:b@students"], "s3://students: expected no credentials in the URL, which"),
        (["x", "ssh://me:word@host/x"], "ssh://me:word"),
        (["x", "s3://St"], "s3://St: names no bucket; expected s3://bucket/folder"),
        (["x", "ssh://host"], "ssh://host: expected ssh://user@host:port/folder"),
        (["x", "ssh://host:0x/y"], "ssh://host:0x/y: expected ssh://user@host:port/folder"),
        (["x", "ftp://host/y"], "ftp://host/y: expected a folder, s3:// or ssh://"),
        (["x", "inside"], "inside: this folder is in the project; name one outside of it"),
        (["x", "../origin.git/HEAD"], "../origin.git/HEAD: this is no folder"),
        (["x", "../x", "--endpoint-url", "http://h"], "--endpoint-url: only of s3:// remotes"),
        (["x", "s3://students", "--endpoint-url", "h"], "--endpoint-url: expected https://"),
        (["x", "ssh://h/x", "--key-file", "no"], "no: no such file; --key-file names a private"),
    ],
)
def test_a_remote_that_is_not_well_formed_is_refused(
    project: Path, arguments: list[str], reason: str
) -> None:
    before = (project / ".dvc/config").read_text()
    code, output, error = invoke("remote", "add", *arguments)
    assert (code, output) == (1, "")
    if "word" in reason:  # the password is not printed again
        assert error.startswith("error: ssh://host/x: expected no password in the URL")
    else:
        assert error.startswith(f"error: {reason}")
    assert (project / ".dvc/config").read_text() == before


def test_a_plug_in_that_is_not_installed_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, error = invoke("remote", "add", "x", "s3://students")
    assert code == 1
    assert error == (
        "error: s3://students: needs dvc-s3, which is not installed; run `pip install 'ackd[s3]'`\n"
    )


def test_list_and_remove(project: Path) -> None:
    assert invoke("remote", "list")[1].startswith("no remote is set up")
    code, _, error = invoke("publish")
    assert (code, error) == (
        1,
        "error: no remote is set up; run `ackd remote add NAME URL`\n",
    )
    port = free_port()
    invoke("remote", "add", "near", "../near", "--no-check")
    invoke("remote", "add", "far", f"ssh://127.0.0.1:{port}/x", "--no-check")
    assert invoke("remote", "add", "near", "../x")[2] == (
        "error: near: this remote exists; run `ackd remote remove near` first\n"
    )
    code, output, _ = invoke("remote", "list")
    assert code == 0
    near = project.parent / "near"
    assert output.splitlines() == [
        f"near: {near}, the default, writes and reads",
        f"far: ssh://127.0.0.1:{port}/x, cannot be used: nothing listens there",
    ]
    code, output, error = invoke("publish", "--remote", "far", "--name", "kept")
    assert (code, output) == (1, "")
    assert error == (
        f"error: far: the remote ssh://127.0.0.1:{port}/x cannot be used (nothing listens there);"
        " nothing was sent there and nothing is lost, so try again once it answers\n"
    )
    assert "/kept" in git(project, "for-each-ref", "refs/exps")
    code, output, _ = invoke("publish")
    assert code == 0
    assert output.startswith("kept: saved before\n")  # the same results
    assert invoke("remote", "remove", "near")[0] == 0
    assert invoke("remote", "remove", "near")[2] == (
        "error: near: no such remote; expected one of far\n"
    )
    assert invoke("publish")[2] == (
        "error: none of the remotes (far) is the default; name one by --remote\n"
    )


def test_a_folder_that_is_full(project: Path) -> None:
    with small_disk(project.parent / "disk", 300) as disk:
        invoke("remote", "add", "storage", str(disk / "store"))
        code, output, error = invoke("publish", "--name", "full")
        assert (code, output) == (1, "")
        assert error == (
            f"error: storage: sending to {disk}/store broke off (No space left on device);"
            " nothing is lost, and the same command goes on from there\n"
        )
        assert_whole(disk / "store")
        assert "full" not in git(project, "ls-remote", "origin")
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        code, output, error = invoke("publish", "--name", "full")
        assert (code, error) == (0, "")
        assert output.splitlines()[0] == "full: saved before"
        assert_whole(disk / "store")
        assert "full" in git(project, "ls-remote", "origin")


@pytest.mark.usefixtures("_aws")
def test_a_server_that_is_full(project: Path) -> None:
    class Full(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = b"<Error><Code>StorageFull</Code><Message>The disk is full.</Message></Error>"
            self.send_response(507)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        code, _, error = invoke(
            "remote", "add", "storage", "s3://students", "--endpoint-url", endpoint
        )
        server.shutdown()
    assert code == 1
    assert "StorageFull" in error
    assert len(error.splitlines()) == 1


def test_results_that_are_not_there_or_altered_are_refused(project: Path) -> None:
    invoke("remote", "add", "storage", "../store", "--no-check")
    for name in (".x", "a b", "x.lock"):
        assert invoke("publish", "--name", name)[2].startswith(f"error: {name}: no name of an exp")
    (project / "reports/gate.json").write_text("{}")
    assert invoke("publish")[2].startswith("error: reports/gate.json: altered since dvc.lock was")
    git(project, "checkout", "reports/gate.json")
    git(project, "remote", "set-url", "origin", "../nowhere.git")
    assert invoke("publish")[2].startswith("error: git ls-remote: '../nowhere.git' does not app")
    git(project, "remote", "remove", "origin")
    assert invoke("publish")[2] == (
        "error: git: this repository has no remote; run `git remote add origin URL`\n"
    )
    (project / "dvc.lock").unlink()
    assert invoke("publish")[2].startswith("error: dvc.lock: not found, so there are no results")
