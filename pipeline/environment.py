"""Prepares the environment of a command and its child processes."""

import contextlib
import getpass
import os
import sys
from pathlib import Path

from models.errors import show_what_it_can

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_QUIET = {
    # The first start creates a database, which may take longer than the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}
_HOME = "PREFECT_HOME"
_OWN_HOME = Path(".dvc/tmp/prefect")


def prepare() -> None:
    """Set variables for this process and its children, keeping those that are already set.

    Output is limited to the terminal's character set, tools are quiet, loopback connections bypass
    proxies, and this Python comes first in ``PATH``.
    """
    show_what_it_can()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Some programs read only one of the two spellings.
    listed = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    exempt = [host.strip() for host in listed if host.strip()]
    exempt += [host for host in _LOOPBACK if host not in exempt]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(exempt)
    # Containers may run as a user unknown to the system, but dvc needs a home folder and a name.
    if os.path.expanduser("~") == "~":  # noqa: PTH111
        os.environ["HOME"] = "/"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"


def folders() -> dict[str, str]:
    """Return the variables of folders that outlive clones, if set, as absolute paths."""
    names = ("ACKD_CHECKPOINTS", "ACKD_LOGITS")
    return {name: str(Path(os.environ[name]).resolve()) for name in names if os.environ.get(name)}


def choose_prefect_home() -> None:
    """Keep Prefect's database in the project, and say so, if ``PREFECT_HOME`` is read-only."""
    home = Path(os.environ.get(_HOME) or "~/.prefect").expanduser()
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    if not os.access(home, os.W_OK | os.X_OK):
        os.environ[_HOME] = str(_OWN_HOME.resolve())
        print(f"{home} is not writable: Prefect's database is in {_OWN_HOME}")
