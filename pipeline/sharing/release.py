"""Releases by DVC's registry: versions and stages as git tags, fetched by name without a clone."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.git_refs import (
    changed_files,
    git,
    git_remote,
    head,
    local_refs,
    remote_refs,
    without_password,
)
from pipeline.sharing.dvc_remotes import CONFIG, Remote, find_remote, push, require_answer, run_dvc
from pipeline.sharing.publish import LOCK, md5, recorded_outputs
from stages.bundle.opening import open_bundle
from stages.files import read_json
from stages.params import PARAMS_FILE, parse_yaml, read_yaml

if TYPE_CHECKING:
    from gto.registry import GitRegistry

CHAIN = "dvc.yaml"
GATE = "reports/gate.json"

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-/_]*[a-zA-Z0-9])?")
_RUNNING = re.compile(r"^Running stage '([^']+)'", re.M)
_TAGS = "refs/tags/"
_NAMED = 3


@dataclass(frozen=True)
class Release:
    """A version of a model in the registry.

    Attributes:
        name: of the model, as in ``dvc.yaml: artifacts``.
        version: as ``1.2.0``.
        stages: those that this version has now, such as ``prod``.
        commit: whose results it is.
        released: the day, as ``2030-01-31``.
    """

    name: str
    version: str
    stages: tuple[str, ...]
    commit: str
    released: str


@dataclass(frozen=True)
class Released:
    """Where a release went.

    Attributes:
        tags: those that the git remote was given.
        files: how many the DVC remote was given; 0 where it had the bundle.
    """

    tags: list[str]
    git_remote: str
    remote: Remote
    files: int


def release(root: Path, name: str, version: str, stage: str | None) -> Released:
    """Give the committed bundle a version, and send it and the version's tag to the remotes.

    The bundle goes first, so that who finds the version finds its file.

    Args:
        root: of the project.
        name: one of ``dvc.yaml: artifacts``.
        version: by semantic versioning; a ``v`` before it may be left out.
        stage: for the version to have, such as ``prod``; None for none.

    Raises:
        InputError: the results are not committed or not those of the code, the gate is not passed,
            the version exists or is not the bundle's own, the bundle is not whole or nowhere, or a
            remote does not answer.
    """
    path = _artifact_path(root, name)
    _check_name(stage)
    upstream, commit = git_remote(root), head(root)
    there = _synchronize(root, upstream, name)
    version = _checked_version(name, version, _versions(root, name))
    tag = f"{name}@v{version}"
    known = _version_commit(root, name, tag)
    if tag in there or (known is not None and known != commit):
        raise InputError(
            f"{name} {version}: exists already, of the commit {(known or '')[:7]}; the next are"
            f" {_next_versions(_versions(root, name))}, and `ackd promote` gives one that exists a"
            " stage"
        )
    _require_committed(root)
    _require_passed(root)
    _require_up_to_date(root)
    _require_bundle(root, path, name, version)
    remote = find_remote(root, None)
    if not remote.shared:
        raise InputError(
            f"{remote.name}: this remote stands in .dvc/config.local alone, where nobody else sees"
            f" it; add one that all share by `ackd remote add`, and commit {CONFIG}"
        )
    require_answer(root, remote)
    files = push(root, remote, [path])
    before = _model_tags(root, name)
    _register(root, name, version, commit)
    if stage is not None:
        _assign(root, name, version, stage)
    tags = _send_tags(root, upstream, name, there, before)
    return Released(tags, upstream, remote, files)


def promote(root: Path, name: str, version: str, stage: str) -> list[str]:
    """Give a released version a stage; whichever had it before has it no more.

    Returns:
        The tags that the git remote was given; none where the version had the stage.

    Raises:
        InputError: there is no such version, or the git remote does not answer.
    """
    _check_name(name)
    _check_name(stage)
    upstream = git_remote(root)
    there = _synchronize(root, upstream, name)
    version = version.removeprefix("v")
    if f"{name}@v{version}" not in there:
        known = ", ".join(_versions(root, name)) or "none"
        raise InputError(f"{name} {version}: not released; released are {known}")
    before = _model_tags(root, name)
    _assign(root, name, version, stage)
    return _send_tags(root, upstream, name, there, before)


def releases(repository: str) -> list[Release]:
    """All versions of all models, the newest of each first.

    Args:
        repository: a folder, or the URL of a git repository, which is cloned for the time.

    Raises:
        InputError: there is no such repository.
    """
    with _opened_registry(repository) as registry:
        return _listed(registry)


def fetch(
    repository: str,
    name: str,
    folder: Path,
    *,
    version: str | None,
    stage: str | None,
    key: Ed25519PublicKey | None,
) -> tuple[Path, dict[str, Any]]:
    """Get a released bundle by its name, and prove it before it appears.

    Args:
        repository: a folder, or the URL of a git repository.
        name: of the model.
        folder: where to put the file ``NAME-VERSION.tar.gz``.
        version: which; the greatest if this and ``stage`` are None.
        stage: whose version.
        key: whose signature it must bear.

    Returns:
        The file, and what the manifest of the bundle says.

    Raises:
        InputError: there is no such release, its data are not reached, or it is not whole.
    """
    if version is not None and stage is not None:
        raise InputError("--version: the stage has a version already; leave one of the two out")
    place = without_password(repository)
    with _opened_registry(repository) as registry:
        wanted = _find_release(_listed(registry), name, version, stage, place)
        path, recorded = _recorded_bundle(registry, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        file = Path(temporary).resolve() / "bundle.tar.gz"
        options = ["--rev", wanted.commit, "--out", str(file)]
        done = run_dvc(Path(), "get", *options, "--", repository, path)
        if done.returncode or not file.is_file():
            raise InputError(f"{name}: not fetched from {place} ({_get_reason(done.stderr)})")
        if md5(file) != recorded:
            raise InputError(
                f"{name} {wanted.version}: the remote has another file than {LOCK} of the commit"
                f" {wanted.commit[:7]} records; have who released it send it again"
            )
        with open_bundle(file, key) as bundle:
            if bundle.name != name or not _is_version(bundle.version, wanted.version):
                raise InputError(
                    f"{name} {wanted.version}: the commit {wanted.commit[:7]} that has this tag"
                    f" holds a bundle of {bundle.name} {bundle.version}; have it released anew"
                )
            target = folder / f"{name.replace('/', '-')}-{bundle.version}.tar.gz"
            manifest = bundle.manifest
        file.replace(target)
    return target, manifest


@contextlib.contextmanager
def _opened_registry(repository: str) -> Iterator[GitRegistry]:
    from gto.exceptions import GTOException
    from gto.registry import GitRegistry
    from scmrepo.exceptions import SCMError

    try:
        with GitRegistry.from_url(repository) as registry:
            yield registry
    except (GTOException, SCMError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            without_password(f"{repository}: no git repository can be read there ({reason})")
        ) from None


def _listed(registry: GitRegistry) -> list[Release]:
    from gto.constants import VersionSort

    found = []
    for artifact in registry.get_artifacts().values():  # type: ignore[no-untyped-call]
        # Of several versions that were given a stage, the last one has it.
        staged = artifact.get_vstages(sort=VersionSort.Timestamp)
        stages = {name: {s.version for s in given} for name, given in staged.items()}
        for version in artifact.get_versions():
            found.append(
                Release(
                    name=artifact.artifact,
                    version=str(version.version).removeprefix("v"),
                    stages=tuple(n for n, of in stages.items() if version.version in of),
                    commit=str(version.commit_hexsha),
                    released=f"{version.created_at:%Y-%m-%d}",
                )
            )
    return found


def _find_release(
    found: list[Release], name: str, version: str | None, stage: str | None, place: str
) -> Release:
    """The one of this version or stage; the greatest version if neither is given."""
    ours = [release for release in found if release.name == name]
    for release in ours:
        if version in (None, release.version, f"v{release.version}") and (
            stage is None or stage in release.stages
        ):
            return release
    known = [", ".join([release.version, *release.stages]) for release in ours]
    raise InputError(
        f"{name}: not released as {version or stage or 'any version'} in {place}; released are"
        f" {'; '.join(known) or 'none'}"
    )


def _recorded_bundle(registry: GitRegistry, release: Release) -> tuple[str, str]:
    """Path and MD5 of a release's file, by ``dvc.yaml`` and ``dvc.lock`` of its commit."""
    files = registry.scm.get_fs(release.commit)
    try:
        chain, lock = (parse_yaml(files.cat_file(name), name) for name in (CHAIN, LOCK))
        path = chain["artifacts"][release.name]["path"]
        outputs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return next((path, out["md5"]) for out in outputs if out["path"] == path)
    except (FileNotFoundError, KeyError, TypeError, AttributeError, StopIteration):
        raise InputError(
            f"{release.name} {release.version}: {CHAIN} and {LOCK} of the commit"
            f" {release.commit[:7]} do not say which file it is; have it released anew"
        ) from None


def _is_version(own: str, released: str) -> bool:
    """Whether a bundle's one to three numbers are those of a semantic version."""
    return [*own.split("."), "0", "0"][:3] == re.split("[-+]", released)[0].split(".")


def _artifact_path(root: Path, name: str) -> str:
    artifacts = read_yaml(root / CHAIN).get("artifacts") or {}
    if name not in artifacts:
        known = ", ".join(artifacts) or "none"
        raise InputError(
            f"{name}: not among the artifacts of {CHAIN} ({known}); write it there with"
            " path: artifacts/bundle.tar.gz and type: model, and commit that"
        )
    _check_name(name)
    return str(artifacts[name]["path"])


def _check_name(name: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(f"{name}: no name for the registry; expected letters, digits, - and _")


def _synchronize(root: Path, upstream: str, name: str) -> set[str]:
    """The tags of this model that the git remote has; after it, they are here too."""
    patterns = [f"{_TAGS}{name}{sign}*" for sign in "@#"]
    git(root, "fetch", "--quiet", "--no-tags", upstream, *[f"{p}:{p}" for p in patterns])
    return {ref.removeprefix(_TAGS) for ref in remote_refs(root, upstream, *patterns)}


def _model_tags(root: Path, name: str) -> set[str]:
    tags = {ref.removeprefix(_TAGS) for ref in local_refs(root, _TAGS)}
    return {tag for tag in tags if tag.startswith((f"{name}@", f"{name}#"))}


def _versions(root: Path, name: str) -> list[str]:
    """The released versions of a model, the smallest first."""
    from semver import Version

    names = [tag.removeprefix(f"{name}@v") for tag in _model_tags(root, name)]
    return sorted(filter(Version.is_valid, names), key=Version.parse)


def _checked_version(name: str, version: str, known: list[str]) -> str:
    from semver import Version

    plain = version.removeprefix("v")
    if not Version.is_valid(plain):
        raise InputError(
            f"{version}: no semantic version of three numbers; the next of {name} are"
            f" {_next_versions(known)}"
        )
    return plain


def _next_versions(known: list[str]) -> str:
    from semver import Version

    if not known:
        return "0.1.0 and 1.0.0"
    last = Version.parse(known[-1])
    return f"{last.bump_patch()}, {last.bump_minor()} and {last.bump_major()}"


def _version_commit(root: Path, name: str, tag: str) -> str | None:
    if tag not in _model_tags(root, name):
        return None
    return git(root, "rev-parse", f"{_TAGS}{tag}^{{commit}}")


def _require_committed(root: Path) -> None:
    changed = changed_files(root)
    if changed:
        more = len(changed) - _NAMED
        names = ", ".join(changed[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise InputError(f"{names}: changed and not committed; a release is of a commit")
    for name in (CHAIN, LOCK, PARAMS_FILE, GATE, CONFIG):
        if (root / name).exists() and not git(root, "ls-files", "--", str(name)):
            raise InputError(f"{name}: not committed; a release is of a commit")


def _require_passed(root: Path) -> None:
    gate = read_json(root / GATE)
    if not gate["passed"]:
        missed = ", ".join(dict.fromkeys(g["goal"] for g in gate["goals"] if not g["met"]))
        raise InputError(
            f"{GATE}: the gate is not passed ({missed}), so there is nothing to release; better"
            f" the student, or change gate in {PARAMS_FILE}"
        )


def _require_up_to_date(root: Path) -> None:
    done = run_dvc(root, "--wait-for-lock", "repro", "--dry", "--allow-missing")
    if done.returncode:
        raise InputError(f"{CHAIN}: {_get_reason(done.stderr)}")
    stages = read_yaml(root / CHAIN)["stages"]
    always = {name for name, stage in stages.items() if stage.get("always_changed")}
    stale = [name for name in _RUNNING.findall(done.stdout) if name not in always]
    if stale:
        raise InputError(
            f"{LOCK}: not of the present code and parameters ({', '.join(stale[:_NAMED])} would"
            " run); run `ackd run` and commit the results"
        )


def _require_bundle(root: Path, path: str, name: str, version: str) -> None:
    if path not in recorded_outputs(root):
        raise InputError(f"{path}: not made by a stage of {CHAIN}; {LOCK} does not name it")
    if not (root / path).is_file():
        raise InputError(f"{path}: not here; run `dvc pull {path}`, or `ackd run`")
    with open_bundle(root / path) as bundle:
        own = bundle
    # A device compares the bundles' own versions to tell which is newer.
    if own.name != name or not _is_version(own.version, version):
        raise InputError(
            f"{path}: says that it is {own.name} {own.version}, and {name} {version} is to be"
            f" released; set package in {PARAMS_FILE}, run `ackd run` and commit the results"
        )


def _register(root: Path, name: str, version: str, commit: str) -> None:
    from gto import api

    if _version_commit(root, name, f"{name}@v{version}") is not None:
        return  # by a try whose tag was not sent
    with _registry_errors():
        api.register(str(root), name, commit, version=f"v{version}")


def _assign(root: Path, name: str, version: str, stage: str) -> None:
    from gto import api

    for known in releases(str(root)):
        if (known.name, known.version) == (name, version) and stage in known.stages:
            return
    with _registry_errors():
        # Forced, as a version may get a stage back that another one had meanwhile.
        api.assign(str(root), name, stage, version=f"v{version}", force=True)


def _send_tags(
    root: Path, upstream: str, name: str, there: set[str], before: set[str]
) -> list[str]:
    """Send the tags of a model that only this repository has; forget the new ones if that fails."""
    tags = sorted(_model_tags(root, name) - there)
    if tags:
        try:
            git(root, "push", "--quiet", "--atomic", upstream, *[_TAGS + tag for tag in tags])
        except InputError:
            for tag in set(tags) - before:
                git(root, "update-ref", "-d", _TAGS + tag)
            raise
    return tags


def _get_reason(text: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in text.splitlines() if "ERROR: " in line]
    last = (errors or text.strip().splitlines() or ["it ended early"])[-1]
    return without_password(last.rpartition("' - ")[2].rstrip("."))


@contextlib.contextmanager
def _registry_errors() -> Iterator[None]:
    """Turns an error of the registry into InputError."""
    from gto.exceptions import GTOException
    from scmrepo.exceptions import SCMError

    try:
        yield
    except (GTOException, SCMError) as error:
        text = " ".join(str(getattr(error, "msg", None) or error).split())
        raise InputError(f"the registry: {text}") from None
