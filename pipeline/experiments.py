"""DVC's experiments as git knows them: each a commit that a name under ``refs/exps`` stands for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipeline.git_command import git

# Beside them lie DVC's own notes, such as refs/exps/exec and refs/exps/stash.
_REF = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")


class Ref(NamedTuple):
    """An experiment; several may have one name, on different commits.

    Attributes:
        baseline: the commit that it started from.
        revision: its own commit.
        path: its full name in git.
    """

    name: str
    baseline: str
    revision: str
    path: str


def list_refs(root: Path, remote: str | None = None) -> list[Ref]:
    """Every experiment of a repository, the newest first, or of a git remote."""
    if remote is None:
        form = "--format=%(objectname)\t%(refname)"
        text = git(root, "for-each-ref", "--sort=-committerdate", form, "refs/exps")
    else:
        text = git(root, "ls-remote", remote, "refs/exps/*")
    found = []
    for line in text.splitlines():
        revision, path = line.split("\t")
        if match := _REF.fullmatch(path):
            found.append(Ref(match[3], match[1] + match[2], revision, path))
    return found
