"""Releases by DVC's registry, only of what others can rely on."""

from __future__ import annotations

import re
from pathlib import Path

from models.errors import InputError
from pipeline.bundles import open_bundle
from pipeline.dvc_command import dvc
from pipeline.dvc_config import CONFIG, shared_remote
from pipeline.git_command import changed_files, git
from pipeline.sharing.registry import CHAIN, LOCK, Release, is_of, list_releases, open_registry
from stages.files import read_json
from stages.formatting import some_of
from stages.params import PARAMS_FILE, read_yaml

GATE = "reports/gate.json"

_RUNNING = re.compile(r"^Running stage '([^']+)'", re.M)


def release(root: Path, name: str, version: str, stage: str | None) -> tuple[str, list[str]]:
    """Give the committed bundle a version, and push it and the version's tag.

    The bundle goes first, so that whoever finds the version finds its file. ``name`` is one of
    ``dvc.yaml: artifacts``.

    Returns:
        The DVC remote that has the bundle, and the new tags.

    Raises:
        InputError: the results are not committed and pushed or not those of the code, the gate is
            not passed, the version is another commit's or not the bundle's own, the bundle is
            damaged or missing, or a remote does not respond.
    """
    version = version.removeprefix("v")
    path = _artifact_path(root, name)
    _require_committed(root)
    commit = git(root, "rev-parse", "HEAD")
    known = _released(root, name)
    if version in known and known[version].commit != commit:
        raise InputError(
            f"{name} {version}: exists already, of the commit {known[version].commit[:7]}; set"
            f" package.version in {PARAMS_FILE} to a new one, or give this one a stage by"
            " `gto assign`"
        )
    if not git(root, "branch", "--remotes", "--contains", commit, "--list", "origin/*"):
        raise InputError(f"{commit[:7]}: not pushed; run `git push origin HEAD`")
    _require_passed(root)
    _require_up_to_date(root)
    _require_bundle(root / path, name, version)
    remote = shared_remote(root)
    if "neither locally nor on remote" in dvc(root, "push", "--remote", remote, path):
        raise InputError(
            f"{path}: neither in DVC's cache nor on the remote {remote}; run `ackd run` to make"
            " it, or `dvc fetch` from where it is"
        )
    return remote, _tag(root, commit, known.get(version), name, version, stage)


def _released(root: Path, name: str) -> dict[str, Release]:
    """The versions of a model, including those that only the git remote had."""
    git(root, "fetch", "--quiet", "--tags", "origin")
    with open_registry(str(root)) as registry:
        return {each.version: each for each in list_releases(registry, name)}


def _tag(
    root: Path, commit: str, known: Release | None, name: str, version: str, stage: str | None
) -> list[str]:
    """Tag a version and its stage here and on the git remote, or neither; returns the new tags."""
    made: list[str] = []
    try:
        with open_registry(str(root)) as registry:
            if known is None:
                made.append(registry.register(name, commit, f"v{version}", simple=True).ref)
            if stage is not None and (known is None or stage not in known.stages):
                # Forced, as a version may get a stage back that another one had meanwhile.
                made.append(registry.assign(name, stage, f"v{version}", force=True).ref)
        refs = [f"refs/tags/{name}{mark}*:refs/tags/{name}{mark}*" for mark in "@#"]
        git(root, "push", "--quiet", "--atomic", "origin", *refs)
    except InputError:
        for tag in made:
            git(root, "tag", "--delete", tag)
        raise
    return sorted(made)


def _artifact_path(root: Path, name: str) -> str:
    artifacts = read_yaml(root / CHAIN).get("artifacts") or {}
    if name not in artifacts:
        raise InputError(
            f"{name}: not among the artifacts of {CHAIN} ({', '.join(artifacts) or 'none'}); write"
            " it there with path: artifacts/bundle.tar.gz and type: model, and commit that"
        )
    return str(artifacts[name]["path"])


def _require_committed(root: Path) -> None:
    needed = [CHAIN, LOCK, str(PARAMS_FILE), GATE, CONFIG]
    tracked = git(root, "ls-files", "--", *needed).splitlines()
    loose = [*changed_files(root), *(name for name in needed if name not in tracked)]
    if loose:
        raise InputError(
            f"{some_of(loose)}: not committed as it is here; a release is of a"
            " commit, so commit it first"
        )


def _require_passed(root: Path) -> None:
    gate = read_json(root / GATE)
    if not gate["passed"]:
        missed = ", ".join(dict.fromkeys(g["goal"] for g in gate["goals"] if not g["met"]))
        raise InputError(
            f"{GATE}: the gate is not passed ({missed}), so there is nothing to release; better"
            f" the student, or change gate in {PARAMS_FILE}"
        )


def _require_up_to_date(root: Path) -> None:
    would_run = _RUNNING.findall(dvc(root, "repro", "--dry", "--allow-missing"))
    stages = read_yaml(root / CHAIN)["stages"]
    stale = [name for name in would_run if not stages.get(name, {}).get("always_changed")]
    if stale:
        raise InputError(
            f"{LOCK}: not of the present code and parameters ({some_of(stale)} would"
            " run); run `ackd run` and commit the results"
        )


def _require_bundle(file: Path, name: str, version: str) -> None:
    if not file.is_file():
        raise InputError(f"{file}: not here; run `dvc pull {file}`, or `ackd run`")
    with open_bundle(file) as bundle:
        # A device compares the bundles' own versions to see which is newer.
        if not is_of(bundle, name, version):
            raise InputError(
                f"{file}: is {bundle.name} {bundle.version}, and {name} {version} is to be"
                f" released; set package in {PARAMS_FILE}, run `ackd run` and commit the results"
            )
