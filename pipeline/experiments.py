"""Lists DVC's experiments: commits that git refs under ``refs/exps`` point to."""

import re
from pathlib import Path
from typing import NamedTuple

from pipeline.git_command import git

# Does not match DVC's internal refs, such as refs/exps/exec and refs/exps/stash.
_REF = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")


class Ref(NamedTuple):
    """An experiment; several may share a name, on different commits."""

    name: str
    baseline: str  # the commit that it started from
    revision: str  # its own commit
    path: str  # the full name of its ref


def list_refs(root: Path, remote: str | None = None) -> list[Ref]:
    """Return all experiments of a repository, newest first, or of a git remote."""
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
