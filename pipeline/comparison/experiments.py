"""The experiments of this project, read from git; the workspace's files are never touched.

An experiment is a commit that DVC keeps under ``refs/exps``, with ``params.yaml``, ``dvc.lock`` and
the small files of ``reports``. What ``ackd sweep`` runs is called ``SWEEP.VARIANT.seedN``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from models.errors import InputError
from pipeline.experiments import list_refs
from pipeline.git_command import git
from pipeline.summary_schema import Compared, checked
from stages.params import parse_yaml

WORKSPACE = "workspace"

_PARAMS, _LOCK, _SUMMARY = "params.yaml", "dvc.lock", "reports/summary.json"
_CLASSES = "reports/classes.csv"
_NAME = re.compile(r"(?P<sweep>[a-z0-9_-]+)\.(?P<variant>[a-z0-9_-]+)\.seed(?P<seed>\d+)")
_NOT_REPORTED = "the chain was not run to its report"

#: The bytes of a file by its path in the project; None where there is none.
Read = Callable[[str], bytes | None]


class Images(NamedTuple):
    """The test images that an accuracy is of; ``digest`` is of their pixels and labels.

    Where it is None, as nobody kept it, they count as the same only for one another.
    """

    source: str
    number: int
    classes: int
    size: int | None
    digest: str | None

    @property
    def title(self) -> str:
        size = f" of {self.size}×{self.size}" if self.size is not None else ""
        return f"{self.source}, {self.number:,} test images{size} in {self.classes:,} classes"


@dataclass(frozen=True)
class Experiment:
    """A student with what is known of it.

    Attributes:
        name: of DVC's experiment, the branch, tag or commit that was asked for, or ``workspace``.
        revision: of its commit; None for the workspace.
        sweep: None for what no sweep made.
        variant: what its seeds share; its own name for what no sweep made.
        seed: that of the student's training; None where it is not known.
        params: ``params.yaml``, not judged, as an older version may have had other keys.
        results: the parts of its ``reports/summary.json``; None where they are not to be had.
        digest: of the test images' pixels and labels; None where it has none.
        reason: why it has no results, or why they are not taken; None where all is well.
        command: that brings it into the workspace; None for what is there.
    """

    name: str
    revision: str | None
    sweep: str | None
    variant: str
    seed: int | None
    params: dict[str, Any]
    results: Compared | None
    digest: str | None
    reason: str | None
    command: str | None

    @property
    def measured(self) -> Compared:
        """The results of one that has them."""
        assert self.results is not None
        return self.results

    @property
    def images(self) -> Images:
        data = self.measured.data
        return Images(data.source, data.test, data.classes, data.image_size, self.digest)


def list_experiments(revisions: Sequence[str] = ()) -> list[Experiment]:
    """All experiments by name, then the workspace, then what else was asked for.

    Where a name stands on several commits, the newest experiment counts, and the others are listed
    with that as their reason. One that cannot be read is listed with its reason too.

    Args:
        revisions: commits, branches or tags besides.

    Raises:
        InputError: this is no git repository, or a revision is not in it.
    """
    found = []
    refs = list_refs(Path())
    names = Counter(ref.name for ref in refs)
    newest: dict[str, str] = {}
    with _reader() as files_of:
        for ref in refs:
            experiment = _read(ref.name, ref.revision, files_of(ref.revision))
            if newest.setdefault(ref.name, ref.revision) != ref.revision:
                reason = f"a newer experiment has this name; this one is {ref.revision[:7]}"
                experiment = replace(experiment, reason=reason)
            if names[ref.name] > 1:
                # DVC would not know which of them is meant.
                experiment = replace(experiment, command=f"dvc exp apply {ref.revision[:10]}")
            found.append(experiment)
        found.sort(key=lambda e: _in_order(e.name))
        found.append(_read(WORKSPACE, None, _read_workspace))
        for text in dict.fromkeys(revisions):
            of = _commit(text)
            experiment = _read(text, of, files_of(of))
            found.append(replace(experiment, command=f"git checkout {text} && dvc checkout"))
    return found


def of_sweep(experiments: Sequence[Experiment], sweep: str | None) -> list[Experiment]:
    """Those of a sweep; all where it is None.

    Raises:
        InputError: there is no such sweep, or nothing at all.
    """
    if sweep is None:
        return list(experiments)
    chosen = [experiment for experiment in experiments if experiment.sweep == sweep]
    if not chosen:
        known = sorted({e.sweep for e in experiments if e.sweep is not None})
        hint = f"expected one of {', '.join(known)}" if known else "there is none yet"
        raise InputError(f"{sweep}: no such sweep here; {hint}")
    return chosen


def _in_order(name: str) -> list[tuple[int, str]]:
    """``seed10`` after ``seed9``."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name)]


def _commit(text: str) -> str:
    options = ("--verify", "--quiet", "--end-of-options")
    try:
        return git(Path(), "rev-parse", *options, f"{text}^{{commit}}")
    except InputError:
        raise InputError(
            f"--rev {text}: no commit, branch or tag of this repository; see `git log --oneline`"
        ) from None


@contextmanager
def _reader() -> Iterator[Callable[[str], Read]]:
    """Reads the files of commits, all by one process of git."""
    command, pipe = ["git", "cat-file", "--batch"], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        asked, answers = process.stdin, process.stdout
        assert asked
        assert answers

        def read(place: str) -> bytes | None:
            asked.write(f"{place}\n".encode())
            asked.flush()
            # "<object> <type> <size>", or "<place> missing".
            *_, kind, size = answers.readline().decode().rsplit(" ", 2)
            if not size.strip().isdigit():
                return None
            content = answers.read(int(size) + 1)[:-1]
            return content if kind == "blob" else None

        # Paths are from the working directory, which may be below git's root.
        yield lambda revision: lambda path: read(f"{revision}:./{path}")
        asked.close()


def _read_workspace(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _read(name: str, revision: str | None, read: Read) -> Experiment:
    match = _NAME.fullmatch(name)
    params: dict[str, Any] = {}
    results, digest, reason = None, None, None
    try:
        params = parse_yaml(_needed(_PARAMS, read), _PARAMS)
        digest = _digest(read)
        results = _results(read)
    except InputError as error:
        reason = str(error)
    distill = params.get("distill")
    seed = distill.get("seed") if isinstance(distill, dict) else None
    return Experiment(
        name=name,
        revision=revision,
        sweep=match["sweep"] if match else None,
        variant=match["variant"] if match else name,
        seed=int(match["seed"]) if match else seed if isinstance(seed, int) else None,
        params=params,
        results=results,
        digest=digest,
        reason=reason,
        command=None if revision is None else f"dvc exp apply {name}",
    )


def _needed(path: str, read: Read) -> bytes:
    if (content := read(path)) is None:
        raise InputError(f"{path} is missing: {_NOT_REPORTED}")
    return content


def _results(read: Read) -> Compared:
    content = _needed(_SUMMARY, read)
    _check_current(content, read)
    try:
        summary = json.loads(content)
    except ValueError as error:
        raise InputError(f"{_SUMMARY} is not readable as JSON ({error})") from None
    if not isinstance(summary, dict):
        raise InputError(f"{_SUMMARY} is not a JSON object")
    return checked(summary, "run that experiment again")


def _check_current(summary: bytes, read: Read) -> None:
    """A chain that was stopped, or run in part, leaves the summary of the run before it.

    What the report read stands in ``dvc.lock`` with its MD5.
    """
    lock = _needed(_LOCK, read)
    # The rest of it is long, and is not parsed.
    block = re.search(rb"^  report:\n(?:    .*\n|  -.*\n)+", lock, flags=re.MULTILINE)
    if block is None:
        raise InputError(f"{_LOCK} has no stage report: {_NOT_REPORTED}")
    stage = parse_yaml(block[0], _LOCK)["report"]
    try:
        outs, deps = ({e["path"]: e.get("md5") for e in stage[kind]} for kind in ("outs", "deps"))
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{_LOCK} is damaged at the stage report") from None
    if outs.get(_SUMMARY) != _md5(summary):
        raise InputError(f"{_SUMMARY} is not the one that the report wrote, by {_LOCK}")
    for path, md5 in deps.items():
        if path == _PARAMS or path.startswith("reports/"):
            content = read(path)
            # A folder has another sum, and reports/devices is none of what the chain makes.
            if content is not None and _md5(content) != md5:
                raise InputError(f"{path} is newer than {_SUMMARY}: {_NOT_REPORTED}")


def _digest(read: Read) -> str | None:
    content = read(_CLASSES)
    if content is None:
        return None
    digest = hashlib.sha256()
    try:
        for row in csv.DictReader(io.StringIO(content.decode("utf-8")), strict=True):
            digest.update(json.dumps([row["class"], row["images_digest"]]).encode())
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{_CLASSES} is not readable as CSV ({error})") from None
    return digest.hexdigest()


def _md5(content: bytes) -> str:
    # DVC's sum of a file; it proves nothing against who would forge one.
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
