"""Reads the results of this project's experiments from git and the workspace.

An experiment is a commit that DVC keeps under ``refs/exps``. ``ackd sweep`` names its experiments
``SWEEP.VARIANT.seedN``.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from models.errors import InputError
from pipeline.experiments import Ref, list_refs
from pipeline.git_command import git
from pipeline.presets import leaves, value_at
from pipeline.summary import LOCK, SUMMARY, outdated, refuse_other_versions
from stages.analysis.classes import CLASSES_FILE
from stages.formatting import threads
from stages.params import PARAMS_FILE, parse_yaml
from stages.tables import Record, processor

WORKSPACE = "workspace"
HERE = "local:"
LITERT = "litert_"  # prefix of the names of LiteRT's precisions

_NAME = re.compile(r"(?P<sweep>[a-z0-9_-]+)\.(?P<variant>[a-z0-9_-]+)\.seed(?P<seed>\d+)")
_NOT_REPORTED = "the chain was not run up to its report"


class Images(NamedTuple):
    """The test images behind an accuracy; the digest covers pixels and labels.

    Folds of the same images count as the same, and have no number.
    """

    source: str
    number: int | None
    classes: int
    size: int
    digest: str

    @property
    def title(self) -> str:
        images = f"{self.number:,} test images" if self.number else f"{self.digest}, images"
        images += f" of {self.size}×{self.size}"
        return f"{self.source}, {images} in {self.classes:,} classes"


class Place(NamedTuple):
    """What a latency was measured on; a URL may mean different machines in different places."""

    url: str
    processor: str
    threads: int

    @property
    def title(self) -> str:
        return f"{self.url} ({self.processor}), {threads(self.threads)}"


@dataclass(frozen=True)
class Experiment:
    """A student and its measurements."""

    name: str  # of the DVC experiment, or the requested revision, or "workspace"
    sweep: str | None
    variant: str  # the name that its seeds share; without a sweep, the experiment's own
    seed: int  # of the student's training
    command: str | None  # brings it into the workspace; None if it is there
    params: dict[str, Any]  # not validated, because older versions may have had other keys
    images: Images
    teacher: str
    student: str
    method: str
    accuracy: float  # of the student in torch
    recommended: str | None  # precision
    paper: dict[str, Any] | None  # the paper's part of reports/summary.json
    exports: dict[str, Record]  # by precision, including LiteRT's
    latencies: dict[tuple[str, Place], Record]  # by precision and device

    @property
    def in_paper(self) -> float | None:
        """The paper's accuracy for its method."""
        return None if self.paper is None else self.paper["accuracies"].get(self.paper["method"])


class Found(NamedTuple):
    """Experiments with results, and the names and reasons of those without."""

    experiments: list[Experiment]
    missing: list[tuple[str, str]]


def find(sweep: str | None, revisions: Sequence[str] = ()) -> Found:
    """Find the experiments of a sweep, or all and the workspace, and those of ``revisions``.

    Raises:
        InputError: this is no git repository, or it has no such sweep or revision.
    """
    refs = _refs(sweep)
    names = Counter(ref.name for ref in refs)
    sources: dict[str, tuple[str | None, str | None]] = {}
    found = Found([], [])
    for ref in refs:
        if ref.name not in sources:
            # DVC requires a commit if several experiments share the name.
            unique = ref.name if names[ref.name] == 1 else ref.revision[:10]
            sources[ref.name] = ref.revision, f"dvc exp apply {unique}"
        else:
            reason = f"a newer experiment has this name; this one is {ref.revision[:7]}"
            found.missing.append((ref.name, reason))
    if sweep is None:
        sources[WORKSPACE] = None, None
    for text in revisions:
        sources[text] = _commit(text), f"git checkout {text} && dvc checkout"
    for name, (revision, command) in sources.items():
        try:
            found.experiments.append(_load(name, revision, command))
        except InputError as error:
            found.missing.append((name, str(error)))
    found.experiments.sort(key=lambda e: (e.sweep is None, e.sweep or "", e.variant, e.seed))
    return found


def parse(
    name: str, command: str | None, params: dict[str, Any], summary: Any, digest: str
) -> Experiment:
    """Build an experiment; raises InputError if another version of ackd wrote the summary."""
    match, own = _NAME.fullmatch(name), leaves(params)
    folds = own.get("data.folds")
    with refuse_other_versions("run that experiment again"):
        data, student, recommended = summary["data"], summary["student"], summary["recommended"]
        number = None if folds else data["test"]
        digest = f"{folds} folds, seed {own.get('data.seed', 0)}" if folds else digest
        return Experiment(
            name=name,
            sweep=match["sweep"] if match else None,
            variant=match["variant"] if match else name,
            seed=int(match["seed"] if match else own.get("distill.seed", 0)),
            command=command,
            params=params,
            images=Images(data["source"], number, data["classes"], data["image_size"], digest),
            teacher=summary["teacher"]["network"],
            student=student["network"],
            method=student["method"],
            accuracy=float(student["accuracy"]),
            recommended=recommended and recommended["precision"],
            paper=summary["paper"],
            exports=_exports(summary),
            latencies=dict(_latencies(summary)),
        )


def _refs(sweep: str | None) -> list[Ref]:
    """Return the refs of a sweep, or all of them, newest first."""
    refs = list_refs(Path())
    if sweep is None:
        return refs
    sweeps = {ref: match["sweep"] for ref in refs if (match := _NAME.fullmatch(ref.name))}
    if sweep not in sweeps.values():
        known = ", ".join(sorted(set(sweeps.values())))
        hint = f"expected one of {known}" if known else "there are no sweeps yet"
        raise InputError(f"{sweep}: no such sweep here; {hint}")
    return [ref for ref, own in sweeps.items() if own == sweep]


def _load(name: str, revision: str | None, command: str | None) -> Experiment:
    params = parse_yaml(_read(PARAMS_FILE, revision).encode(), str(PARAMS_FILE))
    lock = parse_yaml(_read(LOCK, revision).encode(), str(LOCK))
    if value_at(lock, "stages.report") is None:
        raise InputError(f"{LOCK} has no stage report: {_NOT_REPORTED}")
    if old := outdated(lock, params, without=("gate", "package")):
        raise InputError(f"{SUMMARY} is {' and '.join(old)}: {_NOT_REPORTED}")
    text = _read(SUMMARY, revision)
    try:
        summary = json.loads(text)
    except ValueError as error:
        raise InputError(f"{SUMMARY} is not readable as JSON ({error})") from None
    return parse(name, command, params, summary, _digest(revision))


def _read(path: Path, revision: str | None) -> str:
    """Read a file of a commit, or of the workspace."""
    try:
        if revision is None:
            return path.read_text(encoding="utf-8", errors="replace")
        # Relative to the working directory, which may be below git's root.
        return git(Path(), "show", f"{revision}:./{path}")
    except (OSError, InputError):
        raise InputError(f"{path} is missing: {_NOT_REPORTED}") from None


def _commit(text: str) -> str:
    options = ("--verify", "--quiet", "--end-of-options")
    try:
        return git(Path(), "rev-parse", *options, f"{text}^{{commit}}")
    except InputError:
        raise InputError(
            f"--rev {text}: no commit, branch or tag of this repository; see `git log --oneline`"
        ) from None


def _digest(revision: str | None) -> str:
    rows = csv.DictReader(_read(CLASSES_FILE, revision).splitlines())
    images = [(row.get("class"), row.get("images_digest")) for row in rows]
    return hashlib.sha256(repr(images).encode()).hexdigest()


def _exports(summary: Any) -> dict[str, Record]:
    """Return onnxruntime's and LiteRT's exports by precision."""
    litert = summary["litert"]["exports"] if summary["litert"] else {}
    found = summary["exports"] | {f"{LITERT}{name}": row for name, row in litert.items()}
    # Failed exports may have been tested anyway; ignore their accuracies.
    return {
        name: row if row["status"] == "passed" else row | {"accuracy": None}
        for name, row in found.items()
    }


def _latencies(summary: Any) -> Iterator[tuple[tuple[str, Place], Record]]:
    """Yield rows by precision and device; LiteRT's were timed on the machine of the chain."""
    exports = _exports(summary)
    for url, device in summary["devices"].items():
        rows = dict(device["exports"])
        if url == HERE:
            rows |= {name: row for name, row in exports.items() if name.startswith(LITERT)}
        for precision, row in rows.items():
            place = Place(url, processor(device), row["threads"])
            blamed = exports[precision] if exports[precision]["status"] == "failed" else row
            if blamed["status"] == "passed" and row["p50_ms"] is not None:
                yield (precision, place), row
            else:
                reason = blamed["reason"] or f"its status is {blamed['status']}"
                nothing = {"p50_ms": None, "p90_ms": None, "noisy": False, "reason": reason}
                yield (precision, place), nothing
