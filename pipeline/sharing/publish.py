"""Results shared with others: remotes, and experiments that are published to them."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from models.errors import InputError
from pipeline.git_refs import git, git_remote, head, local_refs, remote_refs, workspace_tree
from pipeline.sharing.dvc_remotes import (
    Remote,
    find_remote,
    problem_of,
    push,
    remotes,
    require_answer,
    save_remote,
)
from stages.params import PARAMS_FILE, read_yaml

LOCK = "dvc.lock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_EXPERIMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PLUGINS = {"s3": "dvc_s3", "ssh": "dvc_ssh"}
_SECRETS = {
    "s3": {"access_key_id": "access key id", "secret_access_key": "secret access key"},
    "ssh": {"password": "password"},
}


@dataclass(frozen=True)
class Published:
    """What became of results that were published.

    Attributes:
        name: of the experiment.
        saved: whether it is new in this repository.
        git_remote: which knows it now by its name.
        sent: whether it did not know it before.
        remote: where its data are now.
        files: how many of them were sent.
    """

    name: str
    saved: bool
    git_remote: str
    sent: bool
    remote: Remote
    files: int

    @property
    def unchanged(self) -> bool:
        return not (self.saved or self.sent or self.files)


def add_remote(
    root: Path,
    name: str,
    url: str,
    *,
    default: bool,
    endpoint_url: str | None,
    key_file: Path | None,
    ask: Callable[[str], str] | None,
    check: bool,
) -> Remote:
    """Set up a remote of DVC, after it was written to and read from.

    Args:
        root: of the project.
        name: of the remote.
        url: a folder, ``s3://bucket/folder`` or ``ssh://user@host:port/folder``.
        default: whether it becomes the default though there is one.
        endpoint_url: of a server that speaks S3 and is not Amazon's.
        key_file: the private key to log in with.
        ask: gives what is secret, by what it is; None where the environment has it.
        check: whether the remote must answer.

    Raises:
        InputError: the name or the URL is not well formed, the name is taken, the plug-in is not
            installed, or the remote does not answer.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name}: no name of a remote; expected letters, digits, - and _")
    known = remotes(root)
    if any(remote.name == name for remote in known):
        raise InputError(f"{name}: this remote exists; run `ackd remote remove {name}` first")
    kind, url = parse_url(root, url)
    for option, given, kinds in (
        ("--endpoint-url", endpoint_url, ["s3"]),
        ("--key-file", key_file, ["ssh"]),
        ("--login", ask, ["s3", "ssh"]),
    ):
        if given is not None and kind not in kinds:
            only = " and ".join(f"{each}://" for each in kinds)
            raise InputError(f"{option}: only of {only} remotes, and {url} is none")
    if key_file is not None and not key_file.expanduser().is_file():
        raise InputError(f"{key_file}: no such file; --key-file names a private key")
    plugin = _PLUGINS.get(kind)
    if plugin is not None and importlib.util.find_spec(plugin) is None:
        raise InputError(
            f"{url}: needs {plugin.replace('_', '-')}, which is not installed; run"
            f" `pip install 'ackd[{kind}]'`"
        )
    shared, private = {"url": url}, {}
    if endpoint_url is not None:
        shared["endpointurl"] = _checked_endpoint(endpoint_url)
    if kind == "ssh":
        # DVC takes any host key: what comes from there is compared with the sums in dvc.lock.
        shared["verify"] = "true"
    if key_file is not None:  # another machine has its own elsewhere
        private["keyfile"] = str(key_file.expanduser().resolve())
    if ask is not None:
        private |= {key: ask(what) for key, what in _SECRETS[kind].items()}
    if check:
        problem = problem_of(root, name, {**shared, **private})
        if problem is not None:
            raise InputError(
                f"{url}: cannot be used as a remote ({problem}); nothing was set up, and --no-check"
                " would do so all the same"
            )
    save_remote(root, name, shared, private, default or not any(r.default for r in known))
    return find_remote(root, name)


def parse_url(root: Path, url: str) -> tuple[str, str]:
    """The kind of a remote (``folder``, ``s3`` or ``ssh``), and its URL as DVC takes it.

    A folder becomes absolute, as a clone elsewhere would look beside itself.

    Raises:
        InputError: it is not well formed, has a password in it, or is in the project.
    """
    if "://" not in url or url.startswith("file://"):
        folder = Path(url.removeprefix("file://")).expanduser().resolve()
        if folder.is_relative_to(root.resolve()):
            raise InputError(f"{url}: this folder is in the project; name one outside of it")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{url}: this is no folder")
        return "folder", str(folder)
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.query or parts.fragment:
        raise InputError(f"{parts.scheme}://: expected no ? and no # in the URL of a remote")
    if parts.scheme == "s3":
        if "@" in parts.netloc:
            raise InputError(
                f"{plain}: expected no credentials in the URL, which git keeps; take --login, or"
                " set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if not _BUCKET.fullmatch(parts.netloc):
            raise InputError(f"{url}: names no bucket; expected s3://bucket/folder")
        return "s3", url.rstrip("/")
    if parts.scheme == "ssh":
        if parts.password is not None:
            raise InputError(
                f"{plain}: expected no password in the URL, which git keeps; take --key-file or"
                " --login"
            )
        if not parts.hostname or not _port_is_valid(parts) or len(parts.path) < 2:
            raise InputError(f"{url}: expected ssh://user@host:port/folder")
        return "ssh", url.rstrip("/")
    raise InputError(
        f"{plain}: expected a folder, s3:// or ssh://; what else DVC knows is set up by"
        " `dvc remote add`"
    )


def check_remotes(root: Path) -> list[tuple[Remote, str | None]]:
    """All remotes, each with the reason why it cannot be used, or None."""
    known = remotes(root)
    with ThreadPoolExecutor(max_workers=8) as pool:
        problems = pool.map(lambda remote: problem_of(root, remote.name), known)
        return list(zip(known, problems, strict=True))


def publish(root: Path, name: str | None, remote_name: str | None) -> Published:
    """Save the present results as an experiment of DVC, and send it and its data to the remotes.

    An experiment is a commit upon HEAD that no branch leads to. It is made here from the files as
    they are: ``dvc exp save`` sets them back to HEAD for a moment, which a training that runs
    would see, and a kill would leave so. The data go first, so that who finds the name finds them.

    Args:
        root: of the project.
        name: of the experiment; date and a digest of ``params.yaml`` if None.
        remote_name: of the remote; the default one if None.

    Raises:
        InputError: there are no results or no remote, a remote does not answer, or the name is
            that of other results.
    """
    if name is not None and (not _EXPERIMENT.fullmatch(name) or name.endswith(".lock")):
        raise InputError(f"{name}: no name of an experiment; expected letters, digits, ., - and _")
    results = recorded_outputs(root)
    remote, upstream, commit = find_remote(root, remote_name), git_remote(root), head(root)
    base = f"refs/exps/{commit[:2]}/{commit[2:]}/"
    there = remote_refs(root, upstream, f"{base}*")
    here = local_refs(root, base)
    tree = workspace_tree(root, [LOCK, *results])
    ref = _same_results(root, here, tree, name and base + name)
    saved = ref is None
    if ref is None:
        ref = base + (name or _free_name(root, {*here, *there}, base))
        if ref in here:
            raise InputError(
                f"{name}: the experiment of this name has other results; choose another name"
            )
    experiment = here.get(ref) or git(
        root, "commit-tree", tree, "-p", commit, "-m", f"Publish {ref.removeprefix(base)}"
    )
    if there.get(ref, experiment) != experiment:
        raise InputError(
            f"{ref.removeprefix(base)}: {upstream} has an experiment of this name by somebody else;"
            " choose another name"
        )
    if saved:
        git(root, "update-ref", ref, experiment)
    require_answer(root, remote)
    files = push(root, remote)
    sent = ref not in there
    if sent:
        git(root, "push", "--quiet", upstream, f"{ref}:{ref}")
    return Published(ref.removeprefix(base), saved, upstream, sent, remote, files)


def recorded_outputs(root: Path) -> dict[str, Mapping[str, object]]:
    """What the stages have made, by its path, as ``dvc.lock`` records it.

    Raises:
        InputError: nothing was made, or an output is not the one that is recorded.
    """
    if not (root / LOCK).exists():
        raise InputError(f"{LOCK}: not found, so there are no results yet; run `ackd run`")
    stages = read_yaml(root / LOCK).get("stages", {})
    outputs = {out["path"]: out for stage in stages.values() for out in stage.get("outs", [])}
    for path, out in outputs.items():
        if (root / path).is_file() and md5(root / path) != out.get("md5"):
            raise InputError(
                f"{path}: altered since {LOCK} was written; run `ackd run`, or wait until it ends"
            )
    return outputs


def md5(path: Path) -> str:
    """Hex digest of a file's bytes, by which DVC names it."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()


def _same_results(root: Path, here: Mapping[str, str], tree: str, wanted: str | None) -> str | None:
    """The experiment that has this tree; the one of the wanted name alone where one is wanted."""
    for ref, experiment in here.items():
        if wanted in (None, ref) and git(root, "rev-parse", f"{experiment}^{{tree}}") == tree:
            return ref
    return None


def _free_name(root: Path, taken: set[str], base: str) -> str:
    digest = hashlib.sha256((root / PARAMS_FILE).read_bytes()).hexdigest()[:7]
    name = f"{date.today():%Y%m%d}-{digest}"
    number = 1
    while base + (name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return name if number == 1 else f"{name}-{number}"


def _checked_endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InputError("--endpoint-url: expected https://host:port, without credentials")
    return url


def _port_is_valid(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False
