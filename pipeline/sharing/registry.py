"""Reads releases from DVC's registry, which consists of git tags, and fetches their bundles."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.bundles import Bundle, open_bundle
from pipeline.dvc_runner import dvc
from pipeline.git_command import without_password
from stages.params import parse_yaml

if TYPE_CHECKING:
    from gto.registry import GitRegistry

CHAIN, LOCK = "dvc.yaml", "dvc.lock"


class Release(NamedTuple):
    """A version of a model, with its current stages, such as ``prod``."""

    name: str
    version: str
    stages: list[str]
    commit: str


@contextlib.contextmanager
def open_registry(repository: str) -> Iterator[GitRegistry]:
    """Open the registry of a folder or a git URL; raises InputError if an operation fails."""
    from gto.exceptions import GTOException
    from gto.registry import GitRegistry
    from scmrepo.exceptions import CloneError, SCMError

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the final error covers its retries
    try:
        with GitRegistry.from_url(repository) as registry:
            yield registry
    except CloneError as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise InputError(
            without_password(
                f"registry of {repository}: cannot be cloned ({reason:.200}); correct the address,"
                " or get access to it"
            )
        ) from None
    except (GTOException, SCMError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(without_password(f"registry of {repository}: {reason}")) from None


def list_releases(registry: GitRegistry, name: str) -> list[Release]:
    """Return all versions of a model, the latest first."""
    from gto.constants import VersionSort

    artifact = registry.get_artifacts().get(name)  # type: ignore[no-untyped-call]
    if artifact is None:
        return []
    # A stage belongs to the version that it was assigned to last.
    staged = artifact.get_vstages(sort=VersionSort.Timestamp)
    found = []
    for version in artifact.get_versions():
        number = version.version
        stages = [stage for stage, (last, *_) in staged.items() if last.version == number]
        found.append(Release(name, number.removeprefix("v"), stages, version.commit_hexsha))
    return found


def fetch(
    repository: str,
    name: str,
    folder: Path,
    *,
    version: str | None,
    stage: str | None,
    key: Ed25519PublicKey | None,
) -> tuple[Path, dict[str, Any]]:
    """Download a released bundle and verify it before placing it in ``folder``.

    The file is ``NAME-VERSION.tar.gz``. Without ``version`` and ``stage``, fetch the latest.

    Returns:
        The file, and the manifest of the bundle.

    Raises:
        InputError: there is no such release, its remote does not respond, or it is damaged.
    """
    if version is not None and stage is not None:
        raise InputError("--version: --stage already selects a version; omit one of the two")
    place = without_password(repository)
    with open_registry(repository) as registry:
        wanted = _find(list_releases(registry, name), name, version, stage, place)
        path, recorded = _recorded_bundle(registry, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        file = Path(temporary).resolve() / "bundle.tar.gz"
        options = ["--rev", wanted.commit, "--out", str(file)]
        try:
            dvc(Path(), "get", *options, "--", repository, path)
        except InputError as error:
            raise InputError(
                f"{name} {wanted.version}: not fetched ({error}); the DVC remote of {place} must"
                " be reachable from here and have this file"
            ) from None
        if not file.is_file() or _md5(file) != recorded:
            raise InputError(
                f"{name} {wanted.version}: the remote's file differs from the one in {LOCK} of the"
                f" commit {wanted.commit[:7]}; ask its author to push it again"
            )
        with open_bundle(file, key) as bundle:
            if not is_of(bundle, name, wanted.version):
                raise InputError(
                    f"{name} {wanted.version}: the commit {wanted.commit[:7]} with this tag"
                    f" has a bundle of {bundle.name} {bundle.version}; ask its author to release it"
                    " again"
                )
            target = folder / f"{name.replace('/', '-')}-{bundle.version}.tar.gz"
            manifest = bundle.manifest
        file.replace(target)
    return target, manifest


def is_of(bundle: Bundle, name: str, version: str) -> bool:
    """Return whether a bundle has this name and, in one to three numbers, this version."""
    numbers = [*bundle.version.split("."), "0", "0"][:3]
    return bundle.name == name and numbers == re.split("[-+]", version)[0].split(".")


def _find(
    found: list[Release], name: str, version: str | None, stage: str | None, place: str
) -> Release:
    for release in found:
        if version in (None, release.version, f"v{release.version}") and (
            stage is None or stage in release.stages
        ):
            return release
    known = [", ".join([release.version, *release.stages]) for release in found]
    raise InputError(
        f"{name}: not released as {version or stage or 'any version'} in {place}; releases:"
        f" {'; '.join(known) or 'none'}"
    )


def _recorded_bundle(registry: GitRegistry, release: Release) -> tuple[str, str]:
    """Return path and MD5 of a release's file from ``dvc.yaml`` and ``dvc.lock`` of its commit."""
    files = registry.scm.get_fs(release.commit)
    try:
        chain, lock = (parse_yaml(files.cat_file(name), name) for name in (CHAIN, LOCK))
        path = chain["artifacts"][release.name]["path"]
        outputs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return next((path, out["md5"]) for out in outputs if out["path"] == path)
    except (FileNotFoundError, KeyError, TypeError, AttributeError, StopIteration):
        raise InputError(
            f"{release.name} {release.version}: {CHAIN} and {LOCK} of the commit"
            f" {release.commit[:7]} do not name its file; ask its author to release it again"
        ) from None


def _md5(path: Path) -> str:
    """Return the hex digest that DVC identifies a file by."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()
