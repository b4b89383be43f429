"""The agent as it runs on a device: from stdin, and apart from the project."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.keys import key_id
from stages.devices import agent
from stages.devices.host import _BOOT
from stages.devices.programs import AGENT, single_file
from stages.devices.proof import DeviceError, manifest_sum
from tests.disk import small_disk
from tests.stages.devices.elsewhere import oldest_python

SOURCE = single_file(AGENT)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def make_files(
    version: str, text: str = "model", key: Ed25519PrivateKey | None = None
) -> tuple[dict[str, bytes], str]:
    """A bundle's files below ``bundle/``, and the sum of its manifest."""
    model = text.encode()
    manifest = {
        "format": "ackd-bundle-1",
        "name": "student",
        "version": version,
        "key_id": None if key is None else key_id(key.public_key()),
        "files": {"model.onnx": {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}},
    }
    content = json.dumps({**manifest, "sha256": manifest_sum(manifest)}).encode()
    files = {"bundle/model.onnx": model, "bundle/manifest.json": content}
    if key is not None:
        files["bundle/manifest.sig"] = key.sign(content)
    return files, hashlib.sha256(content).hexdigest()


def tar(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def boot(*arguments: str, python: str = sys.executable) -> list[str]:
    return [python, "-I", "-c", _BOOT, str(len(SOURCE)), *arguments]


def ask(*arguments: str, given: bytes = b"", python: str = sys.executable) -> Any:
    """The agent's answer, or its one sentence."""
    finished = subprocess.run(
        boot(*arguments, python=python),
        input=SOURCE + given,
        capture_output=True,
        check=False,
        cwd="/",
    )
    if finished.returncode:
        (line,) = finished.stderr.decode().splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")
    return json.loads(finished.stdout)


@contextlib.contextmanager
def received(
    base: Path, files: dict[str, bytes], python: str = sys.executable
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The token of files that an agent holds, and that agent; it ends with its stdin."""
    token = secrets.token_hex(4)
    with subprocess.Popen(
        boot("receive", str(base), token, python=python),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(SOURCE + tar(files))
        process.stdin.flush()
        folder = json.loads(process.stdout.readline())["folder"]
        assert folder == f"{base}/.new-{token}"
        yield token, process
        process.stdin.close()
        process.wait(20)


def order(digest: str, *, allow_downgrade: bool = False, key: str | None = None) -> str:
    record = {"network": "resnet8"}
    wanted = {"manifest_sha256": digest, "allow_downgrade": allow_downgrade, "key": key}
    return json.dumps({**wanted, "record": record})


def serve(
    base: Path,
    version: str,
    text: str = "model",
    *,
    signer: Ed25519PrivateKey | None = None,
    key: str | None = None,
    allow_downgrade: bool = False,
    python: str = sys.executable,
) -> Any:
    files, digest = make_files(version, text, signer)
    with received(base, files, python) as (token, _):
        wanted = order(digest, allow_downgrade=allow_downgrade, key=key)
        return ask("activate", str(base), token, wanted, python=python)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def served_text(base: Path) -> str:
    return (base / "served/model.onnx").read_text()


def test_python_38_runs_it(tmp_path: Path) -> None:
    version, python = oldest_python()
    if version != "3.8":
        pytest.skip("no Python 3.8 here")
    assert ask("describe", "x", python=python)["python"] == [3, 8]
    serve(tmp_path, "1", "one", python=python)
    serve(tmp_path, "2", "two", python=python)
    assert ask("rollback", str(tmp_path), "t", python=python)["served"]["version"] == "1"
    assert served_text(tmp_path) == "one"


def test_serve_twice_and_go_back(tmp_path: Path) -> None:
    base = tmp_path / "made/by/it"
    first = serve(base, "1.0", "one")
    assert (first["served"]["version"], first["previous"], first["problem"]) == ("1.0", None, None)
    assert first["served"]["network"] == "resnet8"
    assert served_text(base) == "one"
    assert (base / "served").readlink() == Path("releases", first["served"]["name"], "bundle")
    second = serve(base, "1.1", "two")
    assert (second["served"]["version"], second["previous"]["version"]) == ("1.1", "1.0")
    assert served_text(base) == "two"
    back = ask("rollback", str(base), "token")
    assert (back["served"]["version"], back["previous"]) == ("1.0", None)
    assert served_text(base) == "one"
    assert ask("rollback", str(base), "token") == f"{base}: no version before 1.0 is kept"
    assert serve(base, "0.9", "old").startswith("version 0.9 is older than 1.0, which is served")
    third = serve(base, "0.9", "old", allow_downgrade=True)
    assert third["previous"]["version"] == "1.0"
    # Two are kept, and nothing that was on its way.
    assert len(list((base / "releases").iterdir())) == 2
    assert {path.name for path in base.iterdir()} == {"served", "releases"}


@pytest.mark.parametrize(
    ("served", "given", "wanted"),
    [
        ("1.10", "1.9", "version 1.9 is older than 1.10, which is served; pass --allow-downgrade"),
        ("2", "1.9.9", "version 1.9.9 is older than 2, which is served"),
        ("1.0", "1", "version 1 is already served with other contents"),
        ("1.9", "1.10", None),
        ("1", "1.0.1", None),
    ],
)
def test_the_order_of_versions(served: str, given: str, wanted: str | None) -> None:
    record = {"version": served, "manifest_sha256": "0"}
    if wanted is None:
        agent.refuse_older(given, "1", record)
    else:
        with pytest.raises(DeviceError, match=wanted):
            agent.refuse_older(given, "1", record)


def test_what_was_altered_on_its_way_is_not_served(tmp_path: Path) -> None:
    serve(tmp_path, "1", "one")
    files, digest = make_files("2", "two")
    with received(tmp_path, files) as (token, _):
        for name, wanted in (("manifest.json", "not the one"), ("model.onnx", "altered")):
            path = tmp_path / f".new-{token}/bundle" / name
            path.write_bytes(path.read_bytes() + b" ")
            answer = ask("activate", str(tmp_path), token, order(digest))
            assert answer.startswith(f"{name}: {wanted}")
        path.unlink()
        assert f"{name}: missing" in ask("activate", str(tmp_path), token, order(digest))
    assert served_text(tmp_path) == "one"


def test_a_key_is_required_from_its_first_use_on(tmp_path: Path) -> None:
    serve(tmp_path, "1", "one")
    assert serve(tmp_path, "2", "two", signer=KEY, key=PUBLIC)["key"] == PUBLIC
    back = ask("rollback", str(tmp_path), "token")
    assert (back["served"]["version"], back["served"]["key_id"], back["key"]) == ("1", None, PUBLIC)
    wanted = f"manifest.json: not signed with the key {key_id(KEY.public_key())}, which is required"
    assert serve(tmp_path, "3", "three").startswith(wanted)
    assert serve(tmp_path, "3", "three", signer=OTHER).startswith(wanted)
    assert served_text(tmp_path) == "one"
    third = serve(tmp_path, "3", "three", signer=KEY)
    assert third["served"]["key_id"] == key_id(KEY.public_key())
    # Another key takes its place where that is named.
    other = OTHER.public_key().public_bytes_raw().hex()
    assert serve(tmp_path, "4", "four", signer=OTHER, key=other)["key"] == other
    assert serve(tmp_path, "5", "five", signer=KEY).startswith("manifest.json: not signed with")


def test_a_release_that_was_replaced_with_its_record_misses_its_signature(tmp_path: Path) -> None:
    serve(tmp_path, "1", "one", signer=KEY, key=PUBLIC)
    serve(tmp_path, "2", "two", signer=KEY)
    for name in ("served", "previous"):
        release = tmp_path / "releases" / ask("status", str(tmp_path))[name]["name"]
        files, digest = make_files("1", "other", OTHER)
        for path, content in files.items():
            (release / path).write_bytes(content)
        record = json.loads((release / "record.json").read_text())
        (release / "record.json").write_text(json.dumps({**record, "manifest_sha256": digest}))
    assert "not signed with the key" in ask("status", str(tmp_path))["problem"]
    assert "not signed with the key" in ask("rollback", str(tmp_path), "token")
    (tmp_path / "required-key").write_text("no key")
    assert ask("rollback", str(tmp_path), "token").startswith(f"{tmp_path}/required-key: damaged")


def test_what_is_damaged_is_said_repaired_and_not_gone_back_to(tmp_path: Path) -> None:
    serve(tmp_path, "1", "one")
    serve(tmp_path, "2", "two")
    (tmp_path / "served/model.onnx").write_text("other")
    status = ask("status", str(tmp_path))
    assert status["problem"].endswith(
        "model.onnx: altered since it was packaged; get the bundle again"
    )
    repaired = serve(tmp_path, "2", "two")
    assert (repaired["problem"], repaired["previous"]["version"]) == (None, "1")
    previous = tmp_path / "releases" / repaired["previous"]["name"]
    (previous / "bundle/model.onnx").write_text("other")
    assert "model.onnx: altered" in ask("rollback", str(tmp_path), "token")
    assert served_text(tmp_path) == "two"


def test_streams_that_write_elsewhere_or_end_too_early(tmp_path: Path) -> None:
    for name in ("../outside", "/tmp/outside", "bundle/../../outside", "link"):
        kind = tarfile.SYMTYPE if name == "link" else tarfile.REGTYPE
        answer = ask("receive", str(tmp_path), "token", given=tar({name: b""}, kind))
        assert answer == f"{name}: not a plain file below the bundle's folder"
    given = tar({"bundle/model.onnx": b"x" * 100_000})[:50_000]
    answer = ask("receive", str(tmp_path), "token", given=given)
    assert answer.endswith("the transfer was incomplete; try again")
    assert list(tmp_path.iterdir()) == []


def test_what_was_received_goes_with_its_sender_and_leftovers_with_the_next(tmp_path: Path) -> None:
    serve(tmp_path, "1", "one")
    kept = {path.name for path in (tmp_path / "releases").iterdir()}
    files, _ = make_files("2")
    with received(tmp_path, files) as (dead, process):
        process.kill()
        process.wait()
    assert (tmp_path / f".new-{dead}").is_dir()
    # As a kill leaves them between two steps of a switch.
    (tmp_path / ".new-link").symlink_to("releases")
    for name in ("2-unserved", ".old-1"):
        (tmp_path / "releases" / name).mkdir()
    with received(tmp_path, files) as (first, _), received(tmp_path, files) as (second, _):
        assert {path.name for path in tmp_path.glob(".new-*")} == {
            f".new-{first}",
            f".new-{second}",
        }
        assert {path.name for path in (tmp_path / "releases").iterdir()} == kept
    assert {path.name for path in tmp_path.iterdir()} == {"served", "releases"}


def test_a_full_disk_names_who_else_is_at_work(tmp_path: Path) -> None:
    files, _ = make_files("1")
    with small_disk(tmp_path, "size=64k") as disk:
        with received(disk, files) as (token, _):
            answer = ask(
                "receive", str(disk), "t", given=tar({"bundle/model.onnx": bytes(100_000)})
            )
        assert answer == (
            f"{disk}/.new-t: not written (No space left on device); free some space in {disk},"
            f" where others are at work in .new-{token}"
        )
        assert list(disk.iterdir()) == []


def test_a_damaged_record(tmp_path: Path) -> None:
    name = serve(tmp_path, "1", "one")["served"]["name"]
    record = tmp_path / "releases" / name / "record.json"
    for content in ("{}", "[]", "null", "{", "[" * 100_000):
        record.write_text(content)
        with pytest.raises(DeviceError) as caught:
            agent.status(tmp_path)
        assert str(caught.value) == (
            f"{record}: damaged; remove {tmp_path}/served, and deploy again"
        )
    (tmp_path / "served").unlink()
    assert serve(tmp_path, "1", "one")["problem"] is None


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    assert ask("status", str(tmp_path / "nowhere"))["served"] is None
    nowhere = ask("rollback", str(tmp_path / "nowhere"), "token")
    assert nowhere == f"{tmp_path}/nowhere: no such folder; deploy a bundle first"
    assert "nothing is served here" in ask("rollback", str(tmp_path), "token")
    (tmp_path / "served").symlink_to("elsewhere")
    assert ask("status", str(tmp_path)).startswith(f"{tmp_path}/served: leads to elsewhere")
    (tmp_path / "served").unlink()
    (tmp_path / "served").mkdir()
    assert ask("status", str(tmp_path)).endswith("served: expected a symbolic link; move it away")
    (tmp_path / "file").write_text("")
    given = tar(make_files("1")[0])
    assert "cannot be written to" in ask("receive", str(tmp_path / "file"), "t", given=given)


class _Killed(BaseException):
    """The process ends here; nothing that follows is done."""


def until_killed(real: Callable[..., Any], left: Iterator[int | None]) -> Callable[..., Any]:
    """As ``real``, until what is shared by all such calls has come to None."""

    def call(*arguments: Any, **named: Any) -> Any:
        if next(left) is None:
            raise _Killed
        return real(*arguments, **named)

    return call


def test_a_switch_that_ends_at_any_step_leaves_a_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [(Path, name) for name in ("rename", "replace", "symlink_to", "mkdir")]
    changes += [(shutil, "rmtree"), (os, "fsync")]
    origin = tmp_path / "origin"
    for number, text in enumerate(("one", "two"), 1):
        serve(origin, str(number), text, signer=KEY)
    files, digest = make_files("3", "three", KEY)
    write_files(origin / ".new-token", files)
    taken, finished = 0, False
    while not finished:
        base = shutil.copytree(origin, tmp_path / str(taken), symlinks=True)
        with monkeypatch.context() as patch:
            left = itertools.chain(range(taken), itertools.repeat(None))
            for owner, name in changes:
                patch.setattr(owner, name, until_killed(getattr(owner, name), left))
            try:
                agent.activate(base, "token", order(digest, key=PUBLIC))
                finished = True
            except _Killed:
                taken += 1
        status = agent.status(base)
        assert status["problem"] is None
        version = status["served"]["version"]
        assert served_text(base) == {"2": "two", "3": "three"}[version]
        assert status["previous"]["version"] == {"2": "1", "3": "2"}[version]
        assert version == "2" or status["key"] == PUBLIC
        # And the next one finds its way.
        files_of_next, next_digest = make_files("4", "four", KEY)
        write_files(base / ".new-next", files_of_next)
        assert agent.activate(base, "next", order(next_digest))["problem"] is None
        assert len(list((base / "releases").iterdir())) == 2
    assert version == "3"
    assert taken > 8
