"""The experiments of this project and what they measured, read from git and from the workspace.

An experiment is a commit that DVC keeps under ``refs/exps``. What ``ackd sweep`` runs is called
``SWEEP.VARIANT.seedN``.
"""

from __future__ import annotations

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
from pipeline.presets import leaves
from pipeline.summary import LOCK, SUMMARY, outdated, refuse_other_versions
from stages.analysis.classes import CLASSES_FILE
from stages.formatting import threads
from stages.params import PARAMS_FILE, parse_yaml
from stages.tables import Record, processor

WORKSPACE = "workspace"
HERE = "local:"
LITERT = "litert_"
"""Before the name of a precision that LiteRT runs."""

_NAME = re.compile(r"(?P<sweep>[a-z0-9_-]+)\.(?P<variant>[a-z0-9_-]+)\.seed(?P<seed>\d+)")
_AFTER_REPORT = ("gate", "package")
_NOT_REPORTED = "the chain was not run to its report"


class Images(NamedTuple):
    """The test images that an accuracy is of; the digest is of pixels and labels."""

    source: str
    number: int
    classes: int
    size: int
    digest: str

    @property
    def title(self) -> str:
        images = f"{self.number:,} test images of {self.size}×{self.size}"
        return f"{self.source}, {images} in {self.classes:,} classes"


class Place(NamedTuple):
    """What a latency holds for. The same URL may be another machine elsewhere."""

    url: str
    processor: str
    threads: int

    @property
    def title(self) -> str:
        return f"{self.url} ({self.processor}), {threads(self.threads)}"


@dataclass(frozen=True)
class Experiment:
    """A student with what was measured of it.

    Attributes:
        name: of DVC's experiment, the branch, tag or commit that was asked for, or ``workspace``.
        sweep: None for what no sweep made.
        variant: what its seeds share; its own name for what no sweep made.
        seed: of the student's training.
        command: that brings it into the workspace; None for what is there.
        params: ``params.yaml``, not validated: an older version may have had other keys.
        accuracy: of the student in torch.
        recommended: a precision.
        paper: the part of ``reports/summary.json`` on the paper.
        exports: its rows of exports by precision, those of LiteRT too.
        latencies: its rows of devices by precision and device; what failed has no figures.
    """

    name: str
    sweep: str | None
    variant: str
    seed: int
    command: str | None
    params: dict[str, Any]
    images: Images
    teacher: str
    student: str
    method: str
    accuracy: float
    recommended: str | None
    paper: dict[str, Any] | None
    exports: dict[str, Record]
    latencies: dict[tuple[str, Place], Record]

    @property
    def in_paper(self) -> float | None:
        """The paper's accuracy of its method."""
        return None if self.paper is None else self.paper["accuracies"].get(self.paper["method"])


class Found(NamedTuple):
    """Experiments with results, and the names of those without, each with the reason."""

    experiments: list[Experiment]
    missing: list[tuple[str, str]]


def find(sweep: str | None, revisions: Sequence[str] = ()) -> Found:
    """The experiments of a sweep, or all of them and the workspace; and of other ``revisions``.

    Raises:
        InputError: this is no git repository, or it has no such sweep or revision.
    """
    refs = _refs(sweep)
    names = Counter(ref.name for ref in refs)
    sources: dict[str, tuple[str | None, str | None]] = {}
    found = Found([], [])
    for ref in refs:
        if ref.name not in sources:
            # DVC would not know which of several is meant by the name.
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
    """An experiment from its ``params.yaml`` and its ``reports/summary.json``.

    Raises:
        InputError: another version of ackd wrote the summary.
    """
    match = _NAME.fullmatch(name)
    with refuse_other_versions("run that experiment again"):
        data, student, recommended = summary["data"], summary["student"], summary["recommended"]
        return Experiment(
            name=name,
            sweep=match["sweep"] if match else None,
            variant=match["variant"] if match else name,
            seed=int(match["seed"] if match else leaves(params).get("distill.seed", 0)),
            command=command,
            params=params,
            images=Images(
                data["source"], data["test"], data["classes"], data["image_size"], digest
            ),
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
    """The newest first."""
    refs = list_refs(Path())
    if sweep is None:
        return refs
    sweeps = {ref: match["sweep"] for ref in refs if (match := _NAME.fullmatch(ref.name))}
    if sweep not in sweeps.values():
        known = ", ".join(sorted(set(sweeps.values())))
        hint = f"expected one of {known}" if known else "there is none yet"
        raise InputError(f"{sweep}: no such sweep here; {hint}")
    return [ref for ref, own in sweeps.items() if own == sweep]


def _load(name: str, revision: str | None, command: str | None) -> Experiment:
    params = parse_yaml(_read(PARAMS_FILE, revision).encode(), str(PARAMS_FILE))
    lock = parse_yaml(_read(LOCK, revision).encode(), str(LOCK))
    stages = {k: v for k, v in lock.get("stages", {}).items() if k not in _AFTER_REPORT}
    if "report" not in stages:
        raise InputError(f"{LOCK} has no stage report: {_NOT_REPORTED}")
    if old := outdated({"stages": stages}, params):
        raise InputError(f"{SUMMARY} is {' and '.join(old)}: {_NOT_REPORTED}")
    text = _read(SUMMARY, revision)
    try:
        summary = json.loads(text)
    except ValueError as error:
        raise InputError(f"{SUMMARY} is not readable as JSON ({error})") from None
    return parse(name, command, params, summary, _digest(revision))


def _read(path: Path, revision: str | None) -> str:
    """A file of a commit, or of the workspace."""
    try:
        if revision is None:
            return path.read_text(encoding="utf-8", errors="replace")
        # From the working directory, which may lie below git's root.
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
    """LiteRT's exports stand beside those of onnxruntime."""
    litert = summary["litert"]["exports"] if summary["litert"] else {}
    found = summary["exports"] | {f"{LITERT}{name}": row for name, row in litert.items()}
    # What failed may have been tested all the same.
    return {
        name: row if row["status"] == "passed" else row | {"accuracy": None}
        for name, row in found.items()
    }


def _latencies(summary: Any) -> Iterator[tuple[tuple[str, Place], Record]]:
    """By precision and device; the machine that ran the chain has timed LiteRT's."""
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
                reason = blamed["reason"] or f"it has {blamed['status']}"
                nothing = {"p50_ms": None, "p90_ms": None, "noisy": False, "reason": reason}
                yield (precision, place), nothing
