"""The agent as it runs on a device: from stdin, and apart from the project."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.devices import agent
from stages.devices.host import _BOOT, AGENT

PYTHON38 = next(
    (
        path
        for path in (
            shutil.which("python3.8"),
            *Path.home().glob(".pyenv/versions/3.8*/bin/python"),
        )
        if path
        and not subprocess.run([path, "--version"], capture_output=True, check=False).returncode
    ),
    None,
)


def make_files(version: str, text: str = "model") -> tuple[dict[str, bytes], str]:
    """A bundle's files below ``bundle/``, and the sum of its manifest."""
    model = text.encode()
    manifest = {
        "version": version,
        "files": {"model.onnx": {"sha256": hashlib.sha256(model).hexdigest()}},
    }
    content = json.dumps(manifest).encode()
    files = {"bundle/model.onnx": model, "bundle/manifest.json": content}
    return files, hashlib.sha256(content).hexdigest()


def tar(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def ask(*arguments: str, given: bytes = b"", python: str = sys.executable) -> Any:
    """The agent's answer, or its one sentence."""
    source = AGENT.read_bytes()
    finished = subprocess.run(
        [python, "-I", "-c", _BOOT, str(len(source)), *arguments],
        input=source + given,
        capture_output=True,
        check=False,
        cwd="/",
    )
    if finished.returncode:
        (line,) = finished.stderr.decode().splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")
    return json.loads(finished.stdout)


def order(digest: str, *, allow_downgrade: bool = False) -> str:
    record = {"network": "resnet8", "key": None}
    return json.dumps(
        {"manifest_sha256": digest, "allow_downgrade": allow_downgrade, "record": record}
    )


def serve(base: Path, version: str, text: str = "model", *, python: str = sys.executable) -> Any:
    files, digest = make_files(version, text)
    token = hashlib.sha256(f"{version}{text}{time.monotonic_ns()}".encode()).hexdigest()[:8]
    ask("receive", str(base), token, given=tar(files), python=python)
    return ask("activate", str(base), token, order(digest), python=python)


def served_text(base: Path) -> str:
    return (base / "served/model.onnx").read_text()


def test_it_is_python_38_and_needs_nothing() -> None:
    source = AGENT.read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)
    for newer in ("removeprefix", "file_digest", "readlink()", "filter=", "zip(strict", " | None"):
        assert newer not in source


@pytest.mark.skipif(PYTHON38 is None, reason="no Python 3.8 here")
def test_python_38_runs_it(tmp_path: Path) -> None:
    python = str(PYTHON38)
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
    third = serve(base, "1.2", "three")
    assert third["previous"]["version"] == "1.0"
    # Two are kept, and nothing that was on its way.
    assert len(list((base / "releases").iterdir())) == 2
    assert {path.name for path in base.iterdir()} == {"served", "releases"}


@pytest.mark.parametrize(
    ("served", "given", "wanted"),
    [
        ("1.10", "1.9", "version 1.9 is older than 1.10, which is served; pass --allow-downgrade"),
        ("2", "1.9.9", "version 1.9.9 is older than 2, which is served"),
        ("1.0", "1", "version 1 is served with other contents, so that none is the newer"),
        ("1.9", "1.10", None),
        ("1", "1.0.1", None),
    ],
)
def test_the_order_of_versions(tmp_path: Path, served: str, given: str, wanted: str | None) -> None:
    serve(tmp_path, served, "one")
    answer = serve(tmp_path, given, "two")
    if wanted is None:
        assert answer["served"]["version"] == given
    else:
        assert answer.startswith(wanted)
        assert served_text(tmp_path) == "one"


def test_an_older_one_that_is_allowed(tmp_path: Path) -> None:
    serve(tmp_path, "2", "two")
    files, digest = make_files("1", "one")
    ask("receive", str(tmp_path), "token", given=tar(files))
    answer = ask("activate", str(tmp_path), "token", order(digest, allow_downgrade=True))
    assert (answer["served"]["version"], answer["previous"]["version"]) == ("1", "2")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_what_was_altered_on_its_way_is_not_served(tmp_path: Path, name: str) -> None:
    serve(tmp_path, "1", "one")
    files, digest = make_files("2", "two")
    ask("receive", str(tmp_path), "token", given=tar(files))
    path = tmp_path / ".new-token/bundle" / name
    path.write_bytes(path.read_bytes() + b" ")
    answer = ask("activate", str(tmp_path), "token", order(digest))
    assert answer.startswith(f"{path}: {'altered' if name == 'model.onnx' else 'not the manifest'}")
    assert served_text(tmp_path) == "one"
    path.unlink()
    assert f"{path}: missing" in ask("activate", str(tmp_path), "token", order(digest))


def test_a_file_too_many_is_named(tmp_path: Path) -> None:
    files, digest = make_files("1")
    ask("receive", str(tmp_path), "token", given=tar(files | {"bundle/extra.py": b""}))
    answer = ask("activate", str(tmp_path), "token", order(digest))
    assert answer.endswith("bundle/extra.py: not a file of the bundle; remove it")


def test_what_is_damaged_is_said_repaired_and_not_gone_back_to(tmp_path: Path) -> None:
    serve(tmp_path, "1", "one")
    serve(tmp_path, "2", "two")
    (tmp_path / "served/model.onnx").write_text("other")
    status = ask("status", str(tmp_path))
    assert status["problem"].endswith("model.onnx: altered since it was packaged; deploy again")
    repaired = serve(tmp_path, "2", "two")
    assert (repaired["problem"], repaired["previous"]["version"]) == (None, "1")
    previous = tmp_path / "releases" / repaired["previous"]["name"]
    (previous / "bundle/model.onnx").write_text("other")
    assert "model.onnx: altered" in ask("rollback", str(tmp_path), "token")
    assert served_text(tmp_path) == "two"


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "bundle/../../outside"])
def test_a_stream_that_writes_elsewhere(tmp_path: Path, name: str) -> None:
    base = tmp_path / "base"
    answer = ask("receive", str(base), "token", given=tar({name: b"x"}))
    assert answer == f"{name}: not a plain file below the bundle's folder"
    assert list(base.iterdir()) == []
    answer = ask("receive", str(base), "token", given=tar({"link": b""}, tarfile.SYMTYPE))
    assert "not a plain file" in answer


def test_a_stream_that_ends_too_early(tmp_path: Path) -> None:
    given = tar({"bundle/model.onnx": b"x" * 100_000})
    answer = ask("receive", str(tmp_path), "token", given=given[:50_000])
    assert answer.endswith("the files did not arrive whole; try again")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_when_nobody_can_be_at_work_on_them(tmp_path: Path) -> None:
    for name, age in (("old", 25 * 3600), ("young", 3600)):
        folder = tmp_path / f".new-{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    files, _ = make_files("1")
    ask("receive", str(tmp_path), "token", given=tar(files))
    assert {path.name for path in tmp_path.iterdir()} == {".new-young", ".new-token"}
    ask("remove", str(tmp_path), "token")
    assert {path.name for path in tmp_path.iterdir()} == {".new-young"}


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


class _Steps:
    """Calls that change the disk; after so many of them none is done any more."""

    def __init__(self, left: int) -> None:
        self.left = left

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.left == 0:
                raise _Killed
            self.left -= 1
            return real(*arguments, **named)

        return call


def test_a_switch_that_ends_at_any_step_leaves_a_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [(Path, name) for name in ("rename", "replace", "symlink_to", "mkdir")]
    changes += [(shutil, "rmtree"), (os, "fsync")]
    origin = tmp_path / "origin"
    for number, text in enumerate(("one", "two"), 1):
        serve(origin, str(number), text)
    files, digest = make_files("3", "three")
    ask("receive", str(origin), "token", given=tar(files))
    taken, finished = 0, False
    while not finished:
        base = shutil.copytree(origin, tmp_path / str(taken), symlinks=True)
        with monkeypatch.context() as patch:
            steps = _Steps(taken)
            for owner, name in changes:
                patch.setattr(owner, name, steps.counted(getattr(owner, name)))
            try:
                agent.activate(base, "token", order(digest))
                finished = True
            except _Killed:
                taken += 1
        status = agent.status(base)
        assert status["problem"] is None
        version = status["served"]["version"]
        assert served_text(base) == {"2": "two", "3": "three"}[version]
        assert status["previous"]["version"] == {"2": "1", "3": "2"}[version]
        # And the next one finds its way.
        assert serve(base, "4", "four")["problem"] is None
        assert len(list((base / "releases").iterdir())) == 2
    assert version == "3"
    assert taken > 8
