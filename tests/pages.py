"""Extracts the commands in the docs, and runs them in a shell."""

import contextlib
import itertools
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline import cli
from pipeline.git_command import git
from tests.once import once, repository
from tests.warm_python import warm_dvc, warm_python

ROOT = Path(__file__).parents[1]
PROGRAMS = ("ackd", "adb", "dvc", "npm", "openssl", "pip", "python", "realpath", "ssh", "torchrun")
_CODE = ("models", "pipeline", "presets", "stages", "params.yaml")
_INLINE = re.compile(rf"`((?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)})[\w-]* [^`]+)`")
_ACKD = re.compile(r"(?:[A-Z_]+=\S+ )*ackd ")

_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
_LONGEST = 500.0  # seconds, on a busy machine


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put a folder with this code's ``ackd`` and ``dvc`` first in PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, command in (("ackd", [sys.executable, "-m", "pipeline.cli"]), ("dvc", warm_dvc())):
        write_program(folder / name, f'exec {shlex.join(command)} "$@"')
    path = [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def write_program(path: Path, lines: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(stat.S_IRWXU)
    return path


def blocks(page: str, section: str) -> list[str]:
    """Return the indented blocks of the section that begins so; "": before the first section."""
    found = _sections(page)
    [part] = [text for title, text in found if title.startswith(section) and (section or not title)]
    return _indented(part)


def sections(page: str) -> list[str]:
    """Return the titles of all sections with indented lines; "" for the text before the first."""
    return [title for title, part in _sections(page) if _indented(part)]


def inline(page: str) -> list[str]:
    """Return the commands within sentences, sorted; a program's name alone does not count."""
    return sorted(set(_INLINE.findall(_text(page))))


def type_in(folder: Path, lines: str, *replaced: tuple[str, str]) -> str:
    """Run lines in the folder and return their output; each word to replace must occur.

    ackd runs in this process, which may have imported most of it already.
    """
    typed = replace(lines, *replaced).replace("\\\n", "").splitlines()
    said = ""
    for here, group in itertools.groupby(typed, _runs_here):
        if here:
            said += "".join(_call(folder, line) for line in group)
        else:
            said += _type_in_shell(folder, "\n".join(group))
    return said


def _runs_here(line: str) -> bool:
    return bool(_ACKD.match(line)) and ">" not in line


def _call(folder: Path, line: str) -> str:
    words = shlex.split(line, comments=True)
    place = words.index("ackd")
    own = dict(word.split("=", 1) for word in words[:place])
    arguments = [
        str(Path(word).expanduser()) if word[0] == "~" else word for word in words[place + 1 :]
    ]
    with contextlib.chdir(folder):
        done = CliRunner(env=own).invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.stdout


def _type_in_shell(folder: Path, lines: str) -> str:
    done = subprocess.run(
        ["bash", "-e", "-c", lines], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
    return done.stdout


def type_at_terminal(folder: Path, lines: str, *answers: tuple[str, str]) -> str:
    """Run lines in a terminal, answer questions as they appear, and return what it shows."""
    process = subprocess.Popen(
        [sys.executable, "-c", _TERMINAL, "bash", "-e", "-c", lines],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    killer = threading.Timer(_LONGEST, process.kill)
    killer.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        shown, waiting = "", list(answers)
        while part := os.read(process.stdout.fileno(), 4096):
            shown += part.decode(errors="replace")
            if waiting and waiting[0][0] in shown:
                process.stdin.write(f"{waiting.pop(0)[1]}\n".encode())
                process.stdin.flush()
        assert process.wait() == 0, f"{lines}\n{shown}"
        assert not waiting, f"never asked: {waiting}\n{shown}"
        return shown
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


def replace(lines: str, *replaced: tuple[str, str]) -> str:
    for word, by in replaced:
        assert word in lines, f"{word} does not occur in {lines}"
        lines = lines.replace(word, by)
    return lines


def make_project(folder: Path, *stages: str) -> Path:
    """Create a repository with this project's code and parameters, and some of its stages."""
    shutil.copytree(once("code", _copy_code), folder, symlinks=True)
    yaml = YAML()
    chain = yaml.load(ROOT / "dvc.yaml")
    yaml.dump({"stages": {name: chain["stages"][name] for name in stages}}, folder / "dvc.yaml")
    (folder / "stages/python.sh").write_text(f'exec {warm_python()} "$@"\n')
    return folder


def set_params(project: Path, **sections: dict[str, Any]) -> None:
    """Change values in the sections of params.yaml."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    for section, values in sections.items():
        params[section].update(values)
    yaml.dump(params, project / "params.yaml")


def list_files(*places: str) -> list[str]:
    """Return this project's files as a clone has them, in these places or everywhere."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *places)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def _copy_code(folder: Path) -> None:
    repository(folder)
    for name in list_files(*_CODE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def _text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def _sections(page: str) -> list[tuple[str, str]]:
    """Yield titles and the text below them."""
    first, *rest = _text(page).split("\n## ")
    return [("", first), *((part.partition("\n")[0], part) for part in rest)]


def _indented(text: str) -> list[str]:
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    "):
            found[-1].append(line.removeprefix("    "))
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]
