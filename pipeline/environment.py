"""The environment of a command and of the processes that it starts."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from models.errors import show_what_it_can

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_QUIET = {
    # A first start creates a database, which takes longer than the default of 20 s allows.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}
_HOME = "PREFECT_HOME"
_OWN_HOME = Path(".dvc/tmp/prefect")


def prepare() -> None:
    """Set what this process and its children need, unless the environment has it already.

    Output fits the terminal, tools are quiet, proxies are not used for the loopback interface, and
    this Python comes first in ``PATH``.
    """
    show_what_it_can()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Some programs read the one and some the other.
    listed = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    exempt = [host.strip() for host in listed if host.strip()]
    exempt += [host for host in _LOOPBACK if host not in exempt]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(exempt)
    # Containers may run as a user without an entry in the system; dvc needs home and name.
    if os.path.expanduser("~") == "~":  # noqa: PTH111
        os.environ["HOME"] = "/"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"


def choose_prefect_home(echo: Callable[[str], None]) -> None:
    """Prefect keeps its database in ``PREFECT_HOME``, or else in ``~/.prefect``.

    If that cannot be written, a folder of the project takes its place, and ``echo`` a line.
    """
    home = Path(os.environ.get(_HOME) or "~/.prefect").expanduser()
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    if not os.access(home, os.W_OK | os.X_OK):
        os.environ[_HOME] = str(_OWN_HOME.resolve())
        echo(f"{home} cannot be written: Prefect's database is in {_OWN_HOME}")
