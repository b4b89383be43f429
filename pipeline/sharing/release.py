"""Releases bundles with DVC's registry after checking that they are reproducible."""

from pathlib import Path

from models.errors import InputError
from pipeline.bundles import open_bundle
from pipeline.dvc_config import CONFIG, shared_remote
from pipeline.dvc_runner import dvc
from pipeline.git_command import changed_files, git
from pipeline.sharing.registry import CHAIN, LOCK, Release, is_of, list_releases, open_registry
from stages.files import read_json
from stages.formatting import some_of
from stages.identify_inputs import identify
from stages.params import PARAMS_FILE, load_params, read_yaml

GATE = "reports/gate.json"
_CODE = ("models", "stages")  # folders that stages depend on as a whole


def release(root: Path, name: str, version: str, stage: str | None) -> tuple[str, list[str]]:
    """Push the committed bundle, then a tag for its version.

    The bundle is pushed first, so that a visible version always has its file. ``name`` is a key of
    ``artifacts`` in ``dvc.yaml``.

    Returns:
        The DVC remote with the bundle, and the new tags.

    Raises:
        InputError: the results are outdated, or not committed and pushed; the gate failed; the
            version is not semantic, belongs to another commit or differs from the bundle's; the
            bundle is damaged or missing; or a remote does not respond.
    """
    from gto.versions import SemVer

    version = version.removeprefix("v")
    if not SemVer.is_valid(f"v{version}"):  # type: ignore[no-untyped-call]
        raise InputError(
            f"{name} {version}: expected a semantic version of three numbers, such as 1.2.0"
        )
    path = _artifact_path(root, name)
    _require_committed(root)
    commit = git(root, "rev-parse", "HEAD")
    git(root, "fetch", "--quiet", "--tags", "origin")
    with open_registry(str(root)) as registry:
        known = {each.version: each for each in list_releases(registry, name)}
    if version in known and known[version].commit != commit:
        raise InputError(
            f"{name} {version}: already exists for the commit {known[version].commit[:7]}; set"
            f" package.version in {PARAMS_FILE} to a new one, or give this one a stage with"
            " `gto assign`"
        )
    if not git(root, "branch", "--remotes", "--contains", commit, "--list", "origin/*"):
        raise InputError(f"{commit[:7]}: not pushed; run `git push origin HEAD`")
    _require_passed(root)
    _require_up_to_date(root)
    _require_bundle(root / path, name, version)
    remote = shared_remote(root)
    pushed = dvc(root, "push", "--remote", remote, path)
    if any("neither locally nor on remote" in line for line in pushed):
        raise InputError(
            f"{path}: neither in DVC's cache nor on the remote {remote}; run `ackd run` to"
            " create it, or `dvc fetch` it from another remote"
        )
    return remote, _tag(root, commit, known.get(version), name, version, stage)


def _tag(
    root: Path, commit: str, known: Release | None, name: str, version: str, stage: str | None
) -> list[str]:
    """Tag a version and its stage both here and on the git remote; return the new tags."""
    made: list[str] = []
    try:
        with open_registry(str(root)) as registry:
            if known is None:
                made.append(registry.register(name, commit, f"v{version}", simple=True).ref)
            if stage is not None and (known is None or stage not in known.stages):
                # Forced, because a version may get back a stage that it lost to another one.
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
            f"{name}: not among the artifacts of {CHAIN} ({', '.join(artifacts) or 'none'}); add it"
            " with path: artifacts/bundle.tar.gz and type: model, and commit the change"
        )
    return str(artifacts[name]["path"])


def _require_committed(root: Path) -> None:
    needed = [CHAIN, LOCK, str(PARAMS_FILE), GATE, CONFIG]
    tracked = git(root, "ls-files", "--", *needed).splitlines()
    new = git(root, "ls-files", "--others", "--exclude-standard", "--", *_CODE).splitlines()
    if loose := [*changed_files(root), *new, *(name for name in needed if name not in tracked)]:
        raise InputError(
            f"{some_of(loose)}: changed or untracked; a release refers to a commit, so commit first"
        )


def _require_passed(root: Path) -> None:
    gate = read_json(root / GATE)
    if not gate["passed"]:
        missed = ", ".join(dict.fromkeys(g["goal"] for g in gate["goals"] if not g["met"]))
        raise InputError(
            f"{GATE}: the gate failed ({missed}), so there is nothing to release; improve the"
            f" student, or change gate in {PARAMS_FILE}"
        )


def _require_up_to_date(root: Path) -> None:
    lines = dvc(root, "repro", "--dry", "--allow-missing")
    would_run = [line.split("'")[1] for line in lines if line.startswith("Running stage '")]
    stages = read_yaml(root / CHAIN)["stages"]
    stale = [name for name in would_run if not stages.get(name, {}).get("always_changed")]
    if stale:
        raise InputError(
            f"{LOCK}: outdated by changes of code or parameters ({some_of(stale)} would run); run"
            " `ackd run` and commit the results"
        )
    # A dry run does not identify the inputs.
    for report, content in identify(load_params(root / PARAMS_FILE)).items():
        if content and (root / report).exists() and read_json(root / report) != content:
            raise InputError(
                f"{report}: outdated, because what it describes was replaced; run `ackd run` and"
                " commit the results"
            )


def _require_bundle(file: Path, name: str, version: str) -> None:
    if not file.is_file():
        raise InputError(f"{file}: not found; run `dvc pull {file}`, or `ackd run`")
    with open_bundle(file) as bundle:
        # Devices compare the versions in bundles to refuse older ones.
        if not is_of(bundle, name, version):
            raise InputError(
                f"{file}: is {bundle.name} {bundle.version}, expected {name} {version}; set package"
                f" in {PARAMS_FILE}, run `ackd run` and commit the results"
            )
