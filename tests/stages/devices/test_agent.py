"""Run the agent like on a device: from stdin, without the project."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
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


def make_files(version: str, key: Ed25519PrivateKey | None = None) -> tuple[dict[str, bytes], str]:
    """Write a bundle below ``bundle/``, its version as model; return its manifest's checksum."""
    model = version.encode()
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
    """Run an agent in a process; return its answer, or its one-sentence error."""
    finished = subprocess.run(
        boot(*arguments, python=python), input=SOURCE + given, capture_output=True, cwd="/"
    )
    if finished.returncode:
        (line,) = finished.stderr.decode().splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")
    return json.loads(finished.stdout)


@contextlib.contextmanager
def received(
    base: Path, files: dict[str, bytes], python: str = sys.executable
) -> Iterator[tuple[str, Popen[bytes]]]:
    """Send files to an agent; yield their token and the agent, which ends with its stdin."""
    token = secrets.token_hex(4)
    command = boot("receive", str(base), token, python=python)
    with Popen(command, stdin=PIPE, stdout=PIPE, cwd="/") as process:
        process.stdin.write(SOURCE + tar(files))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["folder"] == f"{base}/.new-{token}"
        yield token, process
        process.stdin.close()
        process.wait(20)


def order(digest: str, *, allow_downgrade: bool = False, key: str | None = None) -> str:
    wanted = {"manifest_sha256": digest, "allow_downgrade": allow_downgrade, "key": key}
    return json.dumps({**wanted, "record": {"network": "resnet8"}})


def serve(base: Path, version: str, signer: Ed25519PrivateKey | None = None, **wanted: Any) -> Any:
    """Serve a bundle like after :func:`received`, in this process."""
    files, digest = make_files(version, signer)
    token = secrets.token_hex(4)
    write_files(base / f".new-{token}", files)
    return agent.activate(base, token, order(digest, **wanted))


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def served_model(base: Path) -> str:
    return (base / "served/model.onnx").read_text()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(sentence: str) -> pytest.RaisesExc[DeviceError]:
    return pytest.raises(DeviceError, match=re.escape(sentence))


def test_the_oldest_python_serves_and_rolls_back(tmp_path):
    _, python = oldest_python()
    base = tmp_path / "made/by/it"
    for version in ("1", "2"):
        files, digest = make_files(version, KEY)
        with received(base, files, python) as (token, _):
            answer = ask("activate", str(base), token, order(digest, key=PUBLIC), python=python)
        assert (answer["served"]["version"], answer["problem"]) == (version, None)
        assert served_model(base) == version
    assert ask("rollback", str(base), "t", python=python)["served"]["version"] == "1"
    assert ask("status", str(base), python=python)["served"]["version"] == "1"
    assert ask("rollback", str(base), "t", python=python) == f"{base}: no version before 1 is kept"
    assert served_model(base) == "1"


def test_two_versions_are_kept_and_an_older_one_is_served_on_request(tmp_path):
    first, second = serve(tmp_path, "1.0"), serve(tmp_path, "1.1")
    assert (first["previous"], second["previous"]["version"]) == (None, "1.0")
    assert (tmp_path / "served").readlink() == Path("releases", second["served"]["name"], "bundle")
    with refused("version 0.9 is older than the served 1.1"):
        serve(tmp_path, "0.9")
    third = serve(tmp_path, "0.9", allow_downgrade=True)
    assert (third["served"]["network"], third["previous"]["version"]) == ("resnet8", "1.1")
    assert len(names(tmp_path / "releases")) == 2


@pytest.mark.parametrize(
    ("served", "given", "wanted"),
    [
        ("1.10", "1.9", "version 1.9 is older than the served 1.10; pass --allow-downgrade"),
        ("2", "1.9.9", "version 1.9.9 is older than the served 2"),
        ("1.0", "1", "version 1 is already served with other contents"),
        ("1.9", "1.10", None),
        ("1", "1.0.1", None),
    ],
)
def test_the_order_of_versions(served, given, wanted):
    record = {"version": served, "manifest_sha256": "0"}
    if wanted is None:
        agent.refuse_older(given, "1", record)
    else:
        with pytest.raises(DeviceError, match=wanted):
            agent.refuse_older(given, "1", record)


def test_files_altered_in_transit_are_not_served(tmp_path):
    serve(tmp_path, "1")
    files, digest = make_files("2")
    bundle = tmp_path / ".new-token/bundle"
    for name, wanted in (("manifest.json", "not the deployed one"), ("model.onnx", "altered")):
        write_files(tmp_path / ".new-token", files)
        (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
        with refused(f"{name}: {wanted}"):
            agent.activate(tmp_path, "token", order(digest))
    (bundle / "model.onnx").unlink()
    with refused("model.onnx: missing"):
        agent.activate(tmp_path, "token", order(digest))
    assert served_model(tmp_path) == "1"


def test_a_key_is_required_from_its_first_use_on(tmp_path):
    serve(tmp_path, "1")
    assert serve(tmp_path, "2", KEY, key=PUBLIC)["key"] == PUBLIC
    back = agent.rollback(tmp_path, "token")
    assert (back["served"]["version"], back["served"]["key_id"], back["key"]) == ("1", None, PUBLIC)
    name = key_id(KEY.public_key())
    for signer in (None, OTHER):
        with refused(f"manifest.json: not signed with the required key {name}"):
            serve(tmp_path, "3", signer)
    assert served_model(tmp_path) == "1"
    assert serve(tmp_path, "3", KEY)["served"]["key_id"] == name
    # Another key replaces it if given.
    other = OTHER.public_key().public_bytes_raw().hex()
    assert serve(tmp_path, "4", OTHER, key=other)["key"] == other
    with refused("manifest.json: not signed with"):
        serve(tmp_path, "5", KEY)


def test_a_release_that_was_replaced_with_its_record_misses_its_signature(tmp_path):
    serve(tmp_path, "1", KEY, key=PUBLIC)
    state = serve(tmp_path, "2", KEY)
    for which in ("served", "previous"):
        release = tmp_path / "releases" / state[which]["name"]
        files, digest = make_files("1", OTHER)
        write_files(release, files)
        record = json.loads((release / "record.json").read_text())
        (release / "record.json").write_text(json.dumps({**record, "manifest_sha256": digest}))
    assert "not signed with the required key" in agent.status(tmp_path)["problem"]
    with refused("not signed with the required key"):
        agent.rollback(tmp_path, "token")
    (tmp_path / "required-key").write_text("no key")
    with refused(f"{tmp_path}/required-key: damaged"):
        agent.rollback(tmp_path, "token")


def test_damage_is_reported_and_repaired_and_blocks_rollback(tmp_path):
    serve(tmp_path, "1")
    serve(tmp_path, "2")
    (tmp_path / "served/model.onnx").write_text("other")
    problem = "model.onnx: altered since it was packaged; get the bundle again"
    assert agent.status(tmp_path)["problem"].endswith(problem)
    repaired = serve(tmp_path, "2")
    assert (repaired["problem"], repaired["previous"]["version"]) == (None, "1")
    previous = tmp_path / "releases" / repaired["previous"]["name"]
    (previous / "bundle/model.onnx").write_text("other")
    with refused("model.onnx: altered"):
        agent.rollback(tmp_path, "token")
    assert served_model(tmp_path) == "2"


def test_streams_that_write_elsewhere_or_end_too_early(tmp_path):
    for name in ("../outside", "/tmp/outside", "bundle/../../outside", "link"):
        kind = tarfile.SYMTYPE if name == "link" else tarfile.REGTYPE
        answer = ask("receive", str(tmp_path), "token", given=tar({name: b""}, kind))
        assert answer == f"{name}: not a plain file below the bundle's folder"
    given = tar({"bundle/model.onnx": b"x" * 100_000})[:50_000]
    answer = ask("receive", str(tmp_path), "token", given=given)
    assert answer.endswith("the transfer was incomplete; try again")
    assert list(tmp_path.iterdir()) == []


def test_unused_files_are_removed_with_their_sender_or_by_the_next(tmp_path):
    serve(tmp_path, "1")
    kept = names(tmp_path / "releases")
    files, _ = make_files("2")
    with received(tmp_path, files) as (dead, process):
        process.kill()
        process.wait()
    assert (tmp_path / f".new-{dead}").is_dir()
    # The state after a kill between two steps of a switch.
    (tmp_path / ".new-link").symlink_to("releases")
    for name in ("2-unserved", ".old-1"):
        (tmp_path / "releases" / name).mkdir()
    with received(tmp_path, files) as (first, _), received(tmp_path, files) as (second, _):
        assert names(tmp_path) - {"served", "releases"} == {f".new-{first}", f".new-{second}"}
        assert names(tmp_path / "releases") == kept
    assert names(tmp_path) == {"served", "releases"}


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path, "size=64k") as disk:
        answer = ask("receive", str(disk), "t", given=tar({"bundle/model.onnx": bytes(100_000)}))
        assert answer.startswith(f"{disk}/.new-t: could not be written (No space left on device);")
        assert answer.endswith(f" free some space in {disk}")
        assert list(disk.iterdir()) == []


def test_a_damaged_record(tmp_path):
    name = serve(tmp_path, "1")["served"]["name"]
    record = tmp_path / "releases" / name / "record.json"
    for content in ("{}", "[]", "null", "{", "[" * 100_000):
        record.write_text(content)
        with refused(f"{record}: damaged; remove {tmp_path}/served and deploy again"):
            agent.status(tmp_path)
    (tmp_path / "served").unlink()
    assert serve(tmp_path, "1")["problem"] is None


def test_foreign_folders_are_refused(tmp_path):
    nowhere, served = tmp_path / "nowhere", tmp_path / "served"
    assert agent.status(nowhere)["served"] is None
    with refused(f"{nowhere}: no such folder; deploy a bundle first"):
        agent.rollback(nowhere, "token")
    with refused("nothing is served here"):
        agent.rollback(tmp_path, "token")
    served.symlink_to("elsewhere")
    with refused(f"{served}: points to elsewhere"):
        agent.status(tmp_path)
    served.unlink()
    served.mkdir()
    with refused("served: expected a symbolic link; move it away"):
        agent.status(tmp_path)
    (tmp_path / "file").write_text("")
    given = tar(make_files("1")[0])
    assert "not writable" in ask("receive", str(tmp_path / "file"), "t", given=given)


class _Killed(BaseException):
    """Stands for the end of the process."""


def until_killed(real: Callable[..., Any], left: Iterator[int | None]) -> Callable[..., Any]:
    """As ``real``, until what is shared by all such calls has come to None."""

    def call(*arguments: Any, **named: Any) -> Any:
        if next(left) is None:
            raise _Killed
        return real(*arguments, **named)

    return call


def test_a_switch_interrupted_at_any_step_leaves_a_complete_version(tmp_path, monkeypatch):
    changes = [(Path, name) for name in ("rename", "replace", "symlink_to", "mkdir")]
    changes += [(shutil, "rmtree"), (os, "fsync")]
    origin = tmp_path / "origin"
    for version in ("1", "2"):
        serve(origin, version, KEY)
    files, digest = make_files("3", KEY)
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
        assert served_model(base) == version
        assert status["previous"]["version"] == {"2": "1", "3": "2"}[version]
        assert version == "2" or status["key"] == PUBLIC
        # The next deployment works.
        assert serve(base, "4", KEY)["problem"] is None
        assert len(list((base / "releases").iterdir())) == 2
    assert version == "3"
    assert taken > 8
