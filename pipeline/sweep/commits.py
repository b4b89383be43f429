"""Checks the commit that a sweep starts from, and finds its finished experiments in git."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import InputError
from pipeline.experiments import Ref, list_refs
from pipeline.git_command import changed_files, git
from pipeline.presets import leaves
from stages.formatting import some_of
from stages.identify_inputs import FOLDER, checksum, identify
from stages.params import PARAMS_FILE, Params, parse_params, parse_yaml

if TYPE_CHECKING:
    from pipeline.sweep.plan import Experiment, Plan

_UNTIL = "until: "


def check_committed() -> None:
    """Raise InputError if tracked files have uncommitted changes or the clone is shallow."""
    if git(Path(), "rev-parse", "--is-shallow-repository") == "true":
        raise InputError(
            "git: this is a shallow clone, which experiments cannot be pushed to; run"
            " `git fetch --unshallow` first"
        )
    if changed := changed_files(Path()):
        raise InputError(
            f"{some_of(changed)}: changed and not committed; commit first, because all"
            " experiments of a sweep start from the last commit"
        )


def check_in_git(params: Params) -> None:
    """Raise InputError for relative paths and modules outside git: experiments run elsewhere."""
    for key, place in _places(params):
        if place.is_absolute() or not place.exists() or place == Path():
            continue
        if not git(Path(), "ls-files", "--", place.as_posix()):
            remedy = "add it to git" if key == "network" else "give the absolute path"
            raise InputError(
                f"{key}: {place} is not in git; experiments run in other folders: {remedy}"
            )


def _places(params: Params) -> Iterator[tuple[str, Path]]:
    """Yield what may be in the project's folder: images, files and code of own networks."""
    for key, source in (("source", params.data.source), ("unlabeled", params.data.unlabeled)):
        scheme, _, location = (source or "").partition(":")
        if scheme == "torchvision":  # torchvision:CIFAR10:folder
            location = location.partition(":")[2]
        yield f"data.{key}", Path(location)
    yield "teacher.weights", params.teacher.weights_file or Path()
    yield "distill.weights", params.distill.weights_file or Path()
    yield "analyze.baseline", Path(params.analyze.baseline or "")
    between = params.proxy.assistants
    networks = [params.teacher.network, params.distill.network]
    for name in (*networks, *between.networks, *between.candidates):
        scheme, _, module = name.rpartition(":")[0].partition(":")  # python:module:function
        if scheme == "python":
            yield "network", Path(f"{module.replace('.', '/')}.py")


def message(plan: Plan) -> str:
    """Return the message of an experiment's commit, with its sweep and last stage."""
    return f"ackd sweep {plan.name}\n\n{_UNTIL}{plan.until}"


def done(plan: Plan) -> set[str]:
    """Return the plan's finished experiments; raises InputError if another one has such a name."""
    planned = {item.name: item for item in plan.experiments}
    others: dict[str, str] = {}
    ready: set[str] = set()
    hashed_once = cache(checksum)
    for ref in list_refs(Path()):
        if ref.name in planned:
            if difference := _difference(plan, planned[ref.name], ref, hashed_once):
                others.setdefault(ref.name, difference)
            else:
                ready.add(ref.name)
    for name, difference in others.items():
        if name not in ready:
            raise InputError(
                f"{name} exists {difference}; give the sweep another name, or remove it with"
                f" `dvc exp remove {name}`"
            )
    return ready


def _difference(
    plan: Plan, experiment: Experiment, ref: Ref, hashed: Callable[[Path, bool], str | None]
) -> str | None:
    text = git(Path(), "show", f"{ref.revision}:{PARAMS_FILE.as_posix()}")
    params = leaves(parse_yaml(text.encode(), f"{PARAMS_FILE} of {ref.name}"))
    wanted = leaves(experiment.params)
    other = [
        f"{key}: {json.dumps(params.get(key))}, not {json.dumps(wanted.get(key))}"
        for key in sorted({*params, *wanted})
        if params.get(key) != wanted.get(key)
    ]
    if other:
        return f"with other settings ({'; '.join(other[:3])})"
    body = git(Path(), "show", "--no-patch", "--format=%B", ref.revision)
    until = body.rpartition(_UNTIL)[2]
    if until != plan.until:
        return f"and ends in {until or 'another stage'}, not {plan.until}"
    changed = git(Path(), "diff", "--name-only", ref.baseline, plan.commit, "--", *plan.files)
    if changed:
        return f"and was made by other code ({some_of(changed.splitlines())} changed since)"
    listed = git(Path(), "ls-tree", "-r", "--name-only", ref.revision, f"{FOLDER.as_posix()}/")
    inputs = plan.reads.intersection(listed.splitlines())
    now = identify(parse_params(experiment.params), hashed) if inputs else {}
    for report in sorted(inputs):
        content = now.get(Path(report))
        if content and content != json.loads(git(Path(), "show", f"{ref.revision}:{report}")):
            return f"and was made from other inputs (those of {report} were replaced since)"
    return None
